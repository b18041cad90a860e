"""`release/notes`: Markdown from the commits, grouped as Conventional Commits 1.0.0 has them. No model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore
from maestro_dagster.errors import StepError
from maestro_dagster.steps.checkout import Checkout, Commit, find_checkout
from maestro_dagster.steps.input import is_json, parse_json
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult

_HEADER = re.compile(
    r"(?P<type>[A-Za-z]{2,20})(?:\((?P<scope>[^()\n]{1,80})\))?(?P<bang>!)?: +(?P<text>\S.*)"
)
_BREAKING = re.compile(r"^BREAKING[ -]CHANGE: *(.+)$", re.MULTILINE)
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|!])")
_GROUPS = (
    ("Security", ("security", "sec")),
    ("Features", ("feat", "feature")),
    ("Fixes", ("fix", "bugfix", "hotfix", "revert")),
    ("Performance", ("perf",)),
    ("Documentation", ("docs", "doc")),
    ("Build and delivery", ("build", "ci", "deps", "release")),
    ("Inside", ("refactor", "test", "tests", "style", "chore")),
)
_OTHERS = "Other changes"
_MAX_PLAN = 64 * 1024
_PREVIEW = 4_000


class NotesConfig(StepConfig):
    title: str | None = Field(default=None, max_length=200)
    version: str | None = Field(default=None, max_length=100)
    include_plan: bool = True
    output: str | None = Field(default=None, max_length=255, description="the name that people see")


@dataclass(frozen=True, slots=True)
class Note:
    group: str
    scope: str
    text: str
    breaking: str  # what breaks, "" for nothing
    sha: str


class ReleaseNotes(StepKind[NotesConfig]):
    uses: ClassVar[str] = "pkg:release/notes@1.0.0"
    summary: ClassVar[str] = "Release notes from the commits of a checkout, with the plan if there is one"
    config = NotesConfig
    media_type: ClassVar[str] = "text/markdown"

    def estimate(self, config: NotesConfig) -> Estimate:
        return Estimate(cpu_seconds=0.1, bytes_out=16 * 1024)

    async def run(
        self, context: StepContext, config: NotesConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        checkout = await asyncio.to_thread(find_checkout, context.store, inputs, context.git)
        if checkout is None:
            raise StepError(
                "there are no commits to write about",
                place=f"step {context.step}",
                remedy="let the step need a git/checkout step, or start the flow by a push",
                code="change-missing",
            )
        notes = [read_note(commit) for commit in checkout.commits]
        plan = _read_plan(context.store, inputs) if config.include_plan else ""
        text = write_notes(config, checkout, notes, plan)
        facts = {
            "commit": checkout.commit,
            "commits": len(notes),
            "breaking": sum(bool(note.breaking) for note in notes),
            "groups": {group: count for group in _group_names() if (count := _count(notes, group))},
            "with_plan": bool(plan),
        }
        if config.output:
            facts["file"] = config.output
        preview = text.encode()[:_PREVIEW].decode(errors="ignore")
        return StepResult(data=text.encode(), media_type=self.media_type, facts=facts, preview=preview)


def read_note(commit: Commit) -> Note:
    """One commit. A subject in another form goes under other changes, whole."""
    match = _HEADER.fullmatch(commit.subject.strip())
    footer = _BREAKING.search(commit.body)
    if match is None:
        return Note(
            _OTHERS, "", commit.subject.strip(), footer.group(1).strip() if footer else "", commit.sha
        )
    kind = match["type"].lower()
    group = next((name for name, types in _GROUPS if kind in types), _OTHERS)
    breaking = footer.group(1).strip() if footer else (match["text"] if match["bang"] else "")
    return Note(group, match["scope"] or "", match["text"].strip(), breaking, commit.sha)


def write_notes(config: NotesConfig, checkout: Checkout, notes: Iterable[Note], plan: str) -> str:
    """The same for the same commits, whenever it runs: the date is the newest commit's."""
    notes = list(notes)
    days = sorted(commit.date[:10] for commit in checkout.commits if commit.date)
    title = config.title or f"Release {config.version or checkout.commit[:12]}"
    lines = [f"# {_escape(title)}" + (f" ({days[-1]})" if days else ""), ""]
    lines.append(f"Commit {checkout.commit}." if checkout.commit else "")
    breaking = [note for note in notes if note.breaking]
    if breaking:
        lines += ["", "## Breaking changes", ""]
        lines += [f"- {_escape(note.breaking)} ({note.sha[:12]})" for note in breaking]
    for group in _group_names():
        members = [note for note in notes if note.group == group]
        if members:
            lines += ["", f"## {group}", "", *map(_write_line, members)]
    if not notes:
        lines += ["", "No commit is new here."]
    if plan:
        lines += ["", "## Test plan", "", _demote(plan)]
    return "\n".join(lines).rstrip() + "\n"


def _write_line(note: Note) -> str:
    scope = f"**{_escape(note.scope)}:** " if note.scope else ""
    return f"- {scope}{_escape(note.text)}" + (f" ({note.sha[:12]})" if note.sha else "")


def _group_names() -> tuple[str, ...]:
    return (*(name for name, _ in _GROUPS), _OTHERS)


def _count(notes: Iterable[Note], group: str) -> int:
    return sum(note.group == group for note in notes)


def _escape(text: str) -> str:
    """Commit texts are whatever a contributor typed: no markup of theirs, no control characters."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return _MARKDOWN.sub(r"\\\1", plain)


def _read_plan(store: ArtifactStore, inputs: Mapping[str, Artifact]) -> str:
    """The first Markdown or JSON input; of a JSON plan its summary and risk."""
    for artifact in inputs.values():
        if artifact.media_type == TREE_MEDIA_TYPE or artifact.size > _MAX_PLAN:
            continue
        if artifact.media_type.startswith("text/markdown"):
            return store.read(artifact.digest).decode("utf-8", "replace").strip()
        if is_json(artifact.media_type):
            value = parse_json(store.read(artifact.digest), "the plan")
            if isinstance(value, Mapping) and "risk" in value:
                summary = value.get("summary")
                parts = [summary if isinstance(summary, str) else "", f"Risk: {_escape(str(value['risk']))}."]
                return "\n\n".join(part for part in parts if part)
    return ""


def _demote(markdown: str) -> str:
    """Headings of the plan become lower than the ones around it; its own title goes."""
    lines = markdown.splitlines()
    if lines and lines[0].startswith("# "):
        lines = lines[1:]
    return "\n".join(f"##{line}" if re.match(r"#{1,4} ", line) else line for line in lines).strip()
