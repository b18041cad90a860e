"""What a forge is to show of a run, as one wish for each place that can show it.

    status:<repository>:<sha>:<context>    the newest run of a flow for a commit
    comment:<repository>:<number>          the newest runs of all flows for a pull request's newest commit
    release:<repository>:<tag>:<run>       the evidence of a run, attached to the release of its tag

A wish says how the place should look in the end, not what happened: it can be sent again, and of several
wishes that came while a forge was away only the last one is.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from maestro_dagster.events.report_call import Standing

Kind = Literal["status", "comment", "release"]
Body = dict[str, Any]
Merge = Callable[[Body | None], Body | None]

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "denied", "cancelled"})
MOST_STEPS = 60  # of one run, in tables
MOST_FLOWS = 50  # of one pull request, in its comment


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step's line in the table. `cost_nano`: 10^-9 USD, None when a price is not known."""

    step: str
    uses: str
    status: str
    duration_ms: int
    cost_nano: int | None


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run as the forge shall see it. Times are seconds since the epoch; money is 10^-9 USD.

    `repository` is the name of the destination, `event` the kind of what asked for the run, `evidence` the
    digest of the bundle, `problem` the first thing that went wrong.
    """

    repository: str
    run_id: str
    flow: str
    standing: Standing
    sha: str
    ref: str
    requested_at: float
    number: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cost_nano: int | None = None
    evidence: str | None = None
    url: str | None = None
    problem: str = ""
    steps: tuple[StepLine, ...] = ()
    more_steps: int = 0
    event: str = ""

    @property
    def request(self) -> int | None:
        """The number of the pull request. Another kind of event has none, whatever was recorded of it."""
        return self.number if self.event == "pr" else None

    @property
    def tag(self) -> str | None:
        return self.ref.removeprefix("refs/tags/") if self.ref.startswith("refs/tags/") else None

    def to_json(self) -> Body:
        return {**asdict(self), "steps": [asdict(step) for step in self.steps]}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> RunReport:
        """Raises TypeError or KeyError for what `to_json` did not write."""
        return replace(cls(**form), steps=tuple(StepLine(**step) for step in form["steps"]))


@dataclass(frozen=True, slots=True)
class Wish:
    """`merge` takes what was wished for so far, or None, and gives what is from now on (None: the same)."""

    target: str
    repository: str
    kind: Kind
    merge: Merge


def make_wishes(report: RunReport, prefix: str = "maestro") -> list[Wish]:
    """What shall be shown of a run, and where. `prefix` begins the name of its status."""
    context = f"{prefix}/{report.flow}{'/pr' if report.request is not None else ''}"
    wishes = [
        _wish("status", report, f"{report.sha}:{context}", lambda old: _newer_status(old, report, context))
    ]
    if report.request is not None:
        wishes.append(_wish("comment", report, str(report.request), lambda old: _newer_comment(old, report)))
    if report.tag is not None and report.standing in ENDED and report.evidence is not None:
        wishes.append(_wish("release", report, f"{report.tag}:{report.run_id}", lambda _: _release(report)))
    return wishes


def _wish(kind: Kind, report: RunReport, rest: str, merge: Merge) -> Wish:
    return Wish(f"{kind}:{report.repository}:{rest}", report.repository, kind, merge)


def _newer_status(old: Body | None, report: RunReport, context: str) -> Body | None:
    if old is not None and not _is_news(old["report"], report):
        return None
    return {"context": context, "report": report.to_json()}


def _newer_comment(old: Body | None, report: RunReport) -> Body | None:
    """Runs of an older commit make room for those of a newer one: the one that was asked for later."""
    if old is None:
        # Nobody can put the mark into a comment of their own before ours is there.
        old = {"number": report.request, "marker": secrets.token_hex(12), "sha": "", "at": 0.0, "runs": {}}
    if report.sha != old["sha"]:
        if report.requested_at < old["at"]:
            return None
        return {**old, "sha": report.sha, "at": report.requested_at, "runs": {report.flow: report.to_json()}}
    before = old["runs"].get(report.flow)
    if before is not None and not _is_news(before, report):
        return None
    if before is None and len(old["runs"]) >= MOST_FLOWS:
        return None
    runs = {**old["runs"], report.flow: report.to_json()}
    return {**old, "at": max(old["at"], report.requested_at), "runs": runs}


def _release(report: RunReport) -> Body:
    name = f"evidence-{plain_name(report.flow)}-{report.run_id}.zip"
    return {"tag": report.tag, "run_id": report.run_id, "name": name, "digest": report.evidence}


def _is_news(before: Mapping[str, Any], report: RunReport) -> bool:
    """A run never goes back, and an older run never covers a newer one."""
    if before["run_id"] != report.run_id:
        return bool(report.requested_at >= before["requested_at"])
    ended = before["standing"] in ENDED
    return not ended or report.standing in ENDED


def plain_name(text: str) -> str:
    """For the name of a file, wherever it is shown or saved."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "run"


def read_standing(status: str) -> Standing:
    """The statuses of runs and the standings are the same words; anything else is a run that goes on."""
    known = ENDED | {"requested", "running"}
    return cast("Standing", status if status in known else "running")
