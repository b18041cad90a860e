"""A step's inputs as material for a model: titled texts, cut to what the model may read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore
from maestro_dagster.errors import StepError
from maestro_dagster.steps.checkout import CHECKOUT_FILE, Checkout, read_checkout
from maestro_dagster.steps.input import is_json, parse_json

_MAX_INPUT = 4 * 1024 * 1024  # bytes of one input that are looked at
_MAX_FILES = 500


@dataclass(frozen=True, slots=True)
class Source:
    title: str
    text: str
    link: str = ""


def read_material(store: ArtifactStore, inputs: Mapping[str, Artifact]) -> tuple[Source, ...]:
    """Feed entries one by one, trees as their commit and list of files, JSON and text as they are.

    Raises StepError (`input-not-text`, `input-not-json`, `input-large`).
    """
    sources: list[Source] = []
    for name, artifact in inputs.items():
        sources += _read_input(store, name, artifact)
    return tuple(source for source in sources if source.title or source.text)


def cut_material(sources: Sequence[Source], budget: int) -> tuple[tuple[Source, ...], bool]:
    """The sources within `budget` bytes of text, long ones shortened first, and whether any was cut."""
    sizes = sorted(len(source.text.encode()) for source in sources)
    share, left = budget, budget
    for place, size in enumerate(sizes):
        share = left // (len(sizes) - place)
        if size > share:
            break
        left -= size
        share = size
    else:
        return tuple(sources), False
    cut = tuple(
        replace(source, text=source.text.encode()[:share].decode(errors="ignore")) for source in sources
    )
    return cut, True


def write_material(sources: Sequence[Source]) -> str:
    """One text for a generative model, with marks around what is data."""
    blocks = [
        "\n".join(
            part for part in (f"# {source.title}" if source.title else "", source.link, source.text) if part
        )
        for source in sources
    ]
    text = re.sub(r"(?i)</?material", "(material", "\n\n".join(blocks))  # the marks are ours alone
    return f"<material>\n{text}\n</material>"


def describe_checkout(checkout: Checkout) -> str:
    """The commits and changed files as plain lines."""
    lines = [f"Commit {checkout.commit} of {checkout.repository} {checkout.ref}".rstrip()]
    lines += [f"{commit.sha[:12]} {commit.subject}" for commit in checkout.commits]
    lines += [f"{change.status} {change.path}" for change in checkout.changed[:_MAX_FILES]]
    return "\n".join(lines)


def _read_input(store: ArtifactStore, name: str, artifact: Artifact) -> list[Source]:
    if artifact.media_type == TREE_MEDIA_TYPE:
        return [_read_tree(store, name, artifact)]
    if artifact.size > _MAX_INPUT:
        raise StepError(
            f"the input {name!r} has {artifact.size} bytes, {_MAX_INPUT} can be read",
            place=f"input {name}",
            remedy="let a step before this one choose what matters",
            code="input-large",
        )
    data = store.read(artifact.digest)
    if is_json(artifact.media_type):
        return _read_value(name, parse_json(data, f"input {name}"))
    try:
        return [Source(name, data.decode("utf-8"))]
    except UnicodeDecodeError:
        raise StepError(
            f"the input {name!r} is not text ({artifact.media_type})",
            place=f"input {name}",
            remedy="put a step before this one that reads such data",
            code="input-not-text",
        ) from None


def _read_tree(store: ArtifactStore, name: str, artifact: Artifact) -> Source:
    checkout = read_checkout(store, artifact)
    if checkout is not None and checkout.changed:
        return Source(name, describe_checkout(checkout))
    paths = [entry.path for entry in store.read_tree(artifact.digest) if entry.path != CHECKOUT_FILE]
    more = f"\nand {len(paths) - _MAX_FILES} more" if len(paths) > _MAX_FILES else ""
    return Source(f"Files of {name}", "\n".join(paths[:_MAX_FILES]) + more)


def _read_value(name: str, value: Any) -> list[Source]:
    if isinstance(value, Mapping) and isinstance(value.get("entries"), list):
        return [_read_entry(entry) for entry in value["entries"] if isinstance(entry, Mapping)]
    return [Source(name, json.dumps(value, ensure_ascii=False, indent=1))]


def _read_entry(entry: Mapping[str, Any]) -> Source:
    """The longer of content and summary: many feeds give the same text in both."""
    texts = [entry.get(field) for field in ("content", "summary")]
    text = max((text for text in texts if isinstance(text, str)), key=len, default="")
    title, link = entry.get("title"), entry.get("link")
    return Source(title if isinstance(title, str) else "", text, link if isinstance(link, str) else "")
