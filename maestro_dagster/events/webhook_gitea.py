"""Deliveries of Gitea and Forgejo: GitHub's fields but for a few. Fields: docs.gitea.com/usage/webhooks."""

from __future__ import annotations

from dataclasses import replace

from maestro_dagster.events.webhook_field import (
    DETACHED,
    Payload,
    Reading,
    changed_paths,
    first_line,
    keep_told,
    list_at,
    maybe_sha_at,
    sha_at,
    text_at,
    value_at,
)
from maestro_dagster.events.webhook_github import (
    common_facts,
    push_reading,
    read_delete,
    read_pull_request,
    read_release,
    read_workflow_run,
)

EVENT_HEADERS = ("x-gitea-event", "x-forgejo-event")
DELIVERY_HEADERS = ("x-gitea-delivery", "x-forgejo-delivery")
_LISTED_COMMITS = 5  # the setting FEED_MAX_COMMIT_NUM, where the delivery does not say how many there were
_ACTIONS = {
    "synchronized": "synchronize",
    "label_updated": "labeled",
    "label_cleared": "unlabeled",
}
_STATES = {"success": "success", "failure": "failure", "error": "failure", "warning": "neutral"}


def name_event(headers: Payload, payload: Payload) -> str:
    del payload
    return text_at(headers, "x-gitea-event") or text_at(headers, "x-forgejo-event")


def name_repository(payload: Payload) -> str:
    return text_at(payload, "repository.full_name")


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    if event == "create":
        return ()  # the push that comes with it tells the same
    read = {
        "push": _read_push,
        "pull_request": _read_pull_request,
        "release": read_release,
        "delete": read_delete,
        "status": _read_status,
        "workflow_run": read_workflow_run,
    }.get(event)
    return None if read is None else read(payload)


def _read_push(payload: Payload) -> tuple[Reading, ...]:
    commits, total = list_at(payload, "commits"), value_at(payload, "total_commits")
    whole = len(commits) >= total if isinstance(total, int) else len(commits) < _LISTED_COMMITS
    facts = {
        **common_facts(payload),
        "title": first_line(payload, "head_commit.message"),
        "url": text_at(payload, "compare_url", 500),
        "commits": total if isinstance(total, int) and 0 <= total < 2**31 else len(commits),
        # Whether a push was forced is not told, so only a new ref's commits say everything.
        "changed_paths": changed_paths(commits, whole and _is_new(payload)),
    }
    return (push_reading(payload, facts),)


def _is_new(payload: Payload) -> bool:
    return not maybe_sha_at(payload, "before").strip("0")


def _read_pull_request(payload: Payload) -> tuple[Reading, ...]:
    (reading,) = read_pull_request(payload)
    action = str(reading.facts.get("action", ""))
    return (replace(reading, facts={**reading.facts, "action": _ACTIONS.get(action, action)}),)


def _read_status(payload: Payload) -> tuple[Reading, ...]:
    state = text_at(payload, "state", 50)
    done = _STATES.get(state)
    facts = {
        **common_facts(payload),
        "action": "completed" if done else "requested",
        "title": text_at(payload, "context"),
        "url": text_at(payload, "target_url", 500),
        "status": state,
        "conclusion": done,
    }
    return (Reading("check", DETACHED, sha_at(payload, "sha"), "", keep_told(facts)),)
