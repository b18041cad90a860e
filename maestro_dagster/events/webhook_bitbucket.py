"""Deliveries of Bitbucket Cloud. Fields: support.atlassian.com/bitbucket-cloud/docs/event-payloads."""

from __future__ import annotations

from typing import Any

from maestro_dagster.events.webhook_field import (
    Payload,
    Reading,
    branch_ref,
    first_line,
    flag_at,
    keep_told,
    kind_of,
    list_at,
    malformed,
    maybe_sha_at,
    need_text,
    number_at,
    ref_at,
    sha_at,
    text_at,
    value_at,
)

EVENT_HEADERS = ("x-event-key",)
DELIVERY_HEADERS = ("x-request-uuid", "x-hook-uuid")
_ACTIONS = {
    "created": "opened",
    "updated": "synchronize",  # also for a new title: the delivery does not tell which
    "fulfilled": "closed",
    "rejected": "closed",
}
_STATUSES = ("repo:commit_status_created", "repo:commit_status_updated")
_CONCLUSIONS = {"SUCCESSFUL": "success", "FAILED": "failure", "STOPPED": "cancelled"}


def name_event(headers: Payload, payload: Payload) -> str:
    del payload
    return text_at(headers, "x-event-key")


def name_repository(payload: Payload) -> str:
    return text_at(payload, "repository.full_name")


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    if event == "repo:push":
        return _read_push(payload)
    if event in _STATUSES:
        return _read_status(event, payload)
    scope, _, action = event.partition(":")
    return _read_pull_request(action, payload) if scope == "pullrequest" and action in _ACTIONS else None


def _read_push(payload: Payload) -> tuple[Reading, ...]:
    return tuple(_read_change(payload, change) for change in list_at(payload, "push.changes"))


def _read_change(payload: Payload, change: Any) -> Reading:
    new, old = value_at(change, "new"), value_at(change, "old")
    told = new if new is not None else old
    prefix = "refs/tags/" if text_at(told, "type") in ("tag", "annotated_tag") else "refs/heads/"
    ref = ref_at(told, "name", prefix)
    after = sha_at(new, "target.hash") if new is not None else "0" * len(sha_at(old, "target.hash"))
    before = sha_at(old, "target.hash") if old is not None else "0" * len(after)
    kind = kind_of(ref, after)
    facts = {
        **_common(payload),
        "title": first_line(new, "target.message"),
        "url": text_at(change, "links.html.href", 500),
        "forced": flag_at(change, "forced"),
    }
    unknown = {} if kind == "delete" else {"changed_paths": None}
    return Reading(kind, ref, after, before, keep_told({**facts, **unknown}))


def _read_pull_request(action: str, payload: Payload) -> tuple[Reading, ...]:
    """The hashes of a pull request are shortened: `after` stays open when its own is."""
    request = value_at(payload, "pullrequest")
    source = text_at(request, "source.repository.full_name")
    after, before = (
        maybe_sha_at(request, "source.commit.hash"),
        maybe_sha_at(request, "destination.commit.hash"),
    )
    facts = {
        **_common(payload),
        "action": _ACTIONS[action],
        "number": number_at(request, "id"),
        "title": text_at(request, "title"),
        "url": text_at(request, "links.html.href", 500),
        "base_ref": need_text(request, "destination.branch.name"),
        "head_ref": need_text(request, "source.branch.name"),
        "head_commit": text_at(request, "source.commit.hash", 64),
        "fork": not source or source != text_at(request, "destination.repository.full_name"),
        "draft": flag_at(request, "draft"),
        "merged": action == "fulfilled",
        "head_repository": source,
        "changed_paths": None,
    }
    ref = ref_at(request, "source.branch.name", "refs/heads/")
    return (Reading("pr", ref, after, before, keep_told(facts)),)


def _read_status(event: str, payload: Payload) -> tuple[Reading, ...]:
    status = value_at(payload, "commit_status")
    done = _CONCLUSIONS.get(text_at(status, "state"))
    after = maybe_sha_at(status, "commit.hash") or maybe_sha_at(
        {"hash": text_at(status, "links.commit.href", 1000).rpartition("/")[2]}, "hash"
    )
    if not after:
        raise malformed("its `commit_status` names no commit")
    facts = {
        **_common(payload),
        "action": "completed" if done else "requested",
        "title": text_at(status, "name") or text_at(status, "key"),
        "url": text_at(status, "url", 500),
        "status": text_at(status, "state", 50).lower(),
        "conclusion": done,
        "subject": event.removeprefix("repo:"),
    }
    return (Reading("check", branch_ref(status, "refname"), after, "", keep_told(facts)),)


def _common(payload: Payload) -> dict[str, Any]:
    return {
        "actor": text_at(payload, "actor.nickname", 100) or text_at(payload, "actor.display_name", 100),
        "default_branch": text_at(payload, "repository.mainbranch.name"),
    }
