"""Deliveries of Bitbucket Server and Data Center. Fields: confluence.atlassian.com, "Event payload"."""

from __future__ import annotations

from typing import Any

from maestro_dagster.events.webhook_field import (
    Payload,
    Reading,
    flag_at,
    keep_told,
    kind_of,
    list_at,
    malformed,
    need_text,
    number_at,
    ref_at,
    sha_at,
    text_at,
    value_at,
)

EVENT_HEADERS = ("x-event-key",)
DELIVERY_HEADERS = ("x-request-id",)
_ACTIONS = {
    "pr:opened": "opened",
    "pr:from_ref_updated": "synchronize",
    "pr:modified": "edited",
    "pr:merged": "closed",
    "pr:declined": "closed",
    "pr:deleted": "closed",
}


def name_event(headers: Payload, payload: Payload) -> str:
    return text_at(headers, "x-event-key") or text_at(payload, "eventKey")


def name_repository(payload: Payload) -> str:
    """`PROJECT/slug`, as in the address of the repository; a person's own project starts with `~`."""
    repository = value_at(payload, "repository") or value_at(payload, "pullRequest.toRef.repository")
    project, slug = text_at(repository, "project.key"), text_at(repository, "slug")
    return f"{project}/{slug}" if project and slug else ""


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    if event == "diagnostics:ping":
        return ()
    if event == "repo:refs_changed":
        return tuple(_read_change(payload, change) for change in list_at(payload, "changes"))
    return _read_pull_request(event, payload) if event in _ACTIONS else None


def _read_change(payload: Payload, change: Any) -> Reading:
    ref = ref_at(change, "ref.id") if value_at(change, "ref.id") is not None else ref_at(change, "refId")
    before, after = sha_at(change, "fromHash"), sha_at(change, "toHash")
    if len(before) != len(after) or before == after:
        raise malformed("its `fromHash` and `toHash` are no move of a ref")
    kind = kind_of(ref, after)
    unknown = {} if kind == "delete" else {"changed_paths": None}
    return Reading(kind, ref, after, before, keep_told({**_common(payload), **unknown}))


def _read_pull_request(event: str, payload: Payload) -> tuple[Reading, ...]:
    request = value_at(payload, "pullRequest")
    number = number_at(request, "id")
    source = _identify(value_at(request, "fromRef.repository"))
    links = list_at(request, "links.self")
    facts = {
        **_common(payload),
        "action": _ACTIONS[event],
        "number": number,
        "title": text_at(request, "title"),
        "url": text_at(links[0], "href", 500) if links else None,
        "base_ref": need_text(request, "toRef.displayId"),
        "head_ref": need_text(request, "fromRef.displayId"),
        "fork": not source or source != _identify(value_at(request, "toRef.repository")),
        "draft": flag_at(request, "draft"),
        "merged": event == "pr:merged",
        "head_repository": source,
        "changed_paths": None,
    }
    after, before = sha_at(request, "fromRef.latestCommit"), sha_at(request, "toRef.latestCommit")
    return (Reading("pr", f"refs/pull-requests/{number}/from", after, before, keep_told(facts)),)


def _identify(repository: Any) -> str:
    project, slug = text_at(repository, "project.key"), text_at(repository, "slug")
    return f"{project}/{slug}" if project and slug else ""


def _common(payload: Payload) -> dict[str, Any]:
    return {"actor": text_at(payload, "actor.name", 100)}
