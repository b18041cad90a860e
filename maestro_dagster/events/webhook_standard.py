"""Deliveries of any other sender, in the envelope of Standard Webhooks (standardwebhooks.com).

    {"type": "push", "timestamp": "2026-01-01T00:00:00Z",
     "data": {"ref": "refs/heads/main", "before": "<sha>", "after": "<sha>", "repository": "acme/shop"}}

`type` is one of our kinds: push, tag, pr, release, delete, pipeline, check. `data` may also have action,
number (of a pr) or id (of another kind), title, labels, base_ref, head_ref, fork, actor, url, conclusion,
prerelease and changed_paths.
"""

from __future__ import annotations

from typing import Any

from maestro_dagster.events.interface import KINDS
from maestro_dagster.events.webhook_field import (
    Payload,
    Reading,
    changed_paths,
    is_zero,
    keep_told,
    kind_of,
    malformed,
    maybe_sha_at,
    number_at,
    ref_at,
    sha_at,
    text_at,
    value_at,
)

EVENT_HEADERS = ()
DELIVERY_HEADERS = ("webhook-id", "svix-id")
_TEXTS = ("action", "title", "base_ref", "head_ref", "actor", "url", "conclusion", "default_branch")
_FLAGS = ("fork", "draft", "merged", "prerelease")


def name_event(headers: Payload, payload: Payload) -> str:
    del headers
    return text_at(payload, "type")


def name_repository(payload: Payload) -> str:
    return text_at(payload, "data.repository")


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a type that is none of our kinds."""
    kind = next((kind for kind in KINDS if kind == event), None)
    if kind is None:
        return None
    data = value_at(payload, "data")
    ref = ref_at(data, "ref")
    after = "" if kind in ("delete", "release") and not value_at(data, "after") else sha_at(data, "after")
    if kind in ("push", "tag"):
        if is_zero(after):
            kind = "delete"
        elif kind != kind_of(ref, after):
            raise malformed(f"its `data.ref` is none of a {kind}")
    before = maybe_sha_at(data, "before")
    return (Reading(kind, ref, after, before, keep_told(_read_facts(kind, data))),)


def _read_facts(kind: str, data: Any) -> dict[str, Any]:
    labels = value_at(data, "labels")
    facts: dict[str, Any] = {name: text_at(data, name) for name in _TEXTS}
    for name in _FLAGS:
        if (flag := value_at(data, name)) is not None:
            if not isinstance(flag, bool):
                raise malformed(f"its `data.{name}` is neither true nor false")
            facts[name] = flag
    numbered = "number" if kind == "pr" else "id"
    if value_at(data, numbered) is not None:
        facts[numbered] = number_at(data, numbered)
    if isinstance(labels, list):
        facts["labels"] = [text_at({"name": label}, "name", 50) for label in labels[:50]]
    if kind in ("push", "tag", "pr"):
        paths = value_at(data, "changed_paths")
        facts["changed_paths"] = changed_paths([{"added": paths, "modified": [], "removed": []}], whole=True)
    if kind == "pr":
        facts.setdefault("fork", True)  # unless the sender says that it is none
    return facts
