"""What happened in a repository, as the rest of the engine sees it, and the run id that belongs to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from maestro_dagster.errors import EventError

Source = Literal["hook", "poll", "webhook"]
Kind = Literal["push", "tag", "pr", "release", "delete", "pipeline", "check"]

KINDS: tuple[Kind, ...] = ("push", "tag", "pr", "release", "delete", "pipeline", "check")
SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 and SHA-256 repositories
EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}")
MAX_FACTS = 16 * 1024  # bytes of the facts as compact JSON
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DERIVED = cast("Kind", "")  # stands for the kind that ref and `after` tell


@dataclass(frozen=True, slots=True)
class RepositoryEvent:
    """One ref that moved, or what a forge says of one. `repository` is a path or URL that git fetches
    from, `name` what the operator calls it.

    `before` is all zeros for a new ref, `after` for a deleted one. `received_at` is seconds since the
    epoch. `kind` follows from ref and `after` if it is not given. `facts` are what the forge said, as
    JSON: forge, action, number (of a pull request), id (what the forge numbers a release, a pipeline, a
    check or a push by), title, labels, base_ref, head_ref, fork, actor, url, conclusion, delivery,
    changed_paths (None: unknown), prerelease; those that do not apply are left out.

    A pull request (`pr`) has the source branch, or what the forge calls its head, as `ref`, and its
    newest commit as `after`.
    """

    event_id: str
    repository: str
    before: str
    after: str
    ref: str
    received_at: float
    source: Source = "hook"
    name: str = ""
    kind: Kind = _DERIVED
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", _kind_of(self.ref, self.after))

    @property
    def branch(self) -> str:
        """The short name of the branch or tag."""
        return re.sub(r"^refs/(heads|tags)/", "", self.ref)

    @property
    def is_tag(self) -> bool:
        return self.ref.startswith("refs/tags/")

    @property
    def deleted(self) -> bool:
        return not self.after.strip("0")

    @property
    def created(self) -> bool:
        return not self.before.strip("0")

    @property
    def partition(self) -> str:
        """`<repository>@<ref>`: branches never overwrite each other's artifacts.

        What came from a fork never stands for a branch of the same name here.
        """
        name, number = self.name or self.repository, self.facts.get("number")
        if self.kind == "pr" and number:
            return f"{name}@pr/{number}"
        return f"{name}@fork/{self.ref}" if self.facts.get("fork") else f"{name}@{self.ref}"

    def to_json(self) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "kind": self.kind,
            "repository": self.repository,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "ref": self.ref,
            "received_at": self.received_at,
            "source": self.source,
            "facts": dict(self.facts),
        }


def _kind_of(ref: str, after: str) -> Kind:
    if not after.strip("0"):
        return "delete"
    return "tag" if ref.startswith("refs/tags/") else "push"


def write_facts(facts: Mapping[str, Any]) -> str:
    """The facts as compact JSON. Raises ValueError for what is no JSON."""
    return json.dumps(dict(facts), separators=(",", ":"), sort_keys=True, allow_nan=False)


def check_event(event: RepositoryEvent) -> None:
    """Raises EventError `event-malformed` for an event that the inbox must not hold."""
    if not EVENT_ID.fullmatch(event.event_id):
        raise _malformed(event, "its event_id is none")
    if event.kind not in KINDS:
        raise _malformed(event, f"its kind is none of {', '.join(KINDS)}")
    if not all(SHA.fullmatch(sha) for sha in (event.before, event.after)):
        raise _malformed(event, "before and after are no object names")
    if not event.ref.startswith("refs/") or _CONTROL.search(event.ref):
        raise _malformed(event, "its ref is none")
    if not event.repository or any(_CONTROL.search(text) for text in (event.repository, event.name)):
        raise _malformed(event, "its repository or name has characters that no path and no text holds")
    try:
        # A lone surrogate is JSON, yet no database and no log can hold it.
        size = len(json.dumps(dict(event.facts), allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise _malformed(event, f"its facts are no JSON: {error}") from error
    if size > MAX_FACTS:
        raise _malformed(event, f"its facts are larger than {MAX_FACTS} bytes")


def _malformed(event: RepositoryEvent, fact: str) -> EventError:
    return EventError(
        f"the event is malformed: {fact}",
        place=f"event {event.event_id[:64]!r}",
        remedy="send the event again as the forge made it",
        code="event-malformed",
    )


def run_id_for(event_id: str, flow_name: str) -> str:
    """The one run id of a flow for an event: `r` and 25 characters of base32, safe in paths and URLs.

    Asking twice gives the same id, so a loop that crashed between asking and noting asks again in vain.
    """
    digest = hashlib.sha256(f"{event_id}\0{flow_name}".encode()).digest()
    return f"r{base64.b32encode(digest).decode().lower()[:25]}"
