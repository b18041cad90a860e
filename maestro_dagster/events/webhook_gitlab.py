"""Deliveries of GitLab. Fields: docs.gitlab.com/user/project/integrations/webhook_events."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from maestro_dagster.events.webhook_field import (
    OWN_REPORTS,
    Payload,
    Reading,
    branch_ref,
    changed_paths,
    first_line,
    flag_at,
    is_zero,
    keep_told,
    label_names,
    list_at,
    maybe_sha_at,
    need_text,
    number_at,
    ref_at,
    sha_at,
    text_at,
    value_at,
)
from maestro_dagster.events.webhook_github import push_reading

EVENT_HEADERS = ("x-gitlab-event",)
DELIVERY_HEADERS = ("idempotency-key", "x-gitlab-event-uuid")
_ACTIONS = {"open": "opened", "reopen": "reopened", "close": "closed", "merge": "closed"}
_RELEASE_ACTIONS = {"create": "published", "update": "edited", "delete": "deleted"}
_CONCLUSIONS = {
    "success": "success",
    "failed": "failure",
    "canceled": "cancelled",
    "skipped": "skipped",
    "manual": "action_required",
}


def name_event(headers: Payload, payload: Payload) -> str:
    del headers  # a system hook names the same objects under another header
    return text_at(payload, "object_kind") or text_at(payload, "event_name")


def name_repository(payload: Payload) -> str:
    found = text_at(payload, "project.path_with_namespace")
    # The job event of older releases has the page of the project only.
    return found or urlsplit(text_at(payload, "repository.homepage")).path.strip("/")


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    read = {
        "push": _read_push,
        "tag_push": _read_push,
        "merge_request": _read_merge_request,
        "release": _read_release,
        "pipeline": _read_pipeline,
        "build": _read_job,
    }.get(event)
    return None if read is None else read(payload)


def _common(payload: Payload) -> dict[str, Any]:
    return {
        "actor": text_at(payload, "user_username", 100)
        or text_at(payload, "user.username", 100)
        or text_at(payload, "user_name", 100),
        "default_branch": text_at(payload, "project.default_branch"),
    }


def _read_push(payload: Payload) -> tuple[Reading, ...]:
    commits, total = list_at(payload, "commits"), value_at(payload, "total_commits_count")
    # Whether a push was forced is not told, so only a new ref's commits say everything.
    whole = isinstance(total, int) and len(commits) >= total and is_zero(maybe_sha_at(payload, "before"))
    facts = {
        **_common(payload),
        "title": first_line(commits[-1], "message") if commits else None,
        "commits": total if isinstance(total, int) and 0 <= total < 2**31 else None,
        "changed_paths": changed_paths(commits, whole),
    }
    return (push_reading(payload, facts),)


def _read_merge_request(payload: Payload) -> tuple[Reading, ...]:
    request = value_at(payload, "object_attributes")
    number = number_at(request, "iid")
    source, target = value_at(request, "source_project_id"), value_at(request, "target_project_id")
    facts = {
        **_common(payload),
        "action": _name_action(payload),
        "number": number,
        "title": text_at(request, "title"),
        "url": text_at(request, "url", 500),
        "labels": label_names(value_at(payload, "labels") or value_at(request, "labels"), "title"),
        "base_ref": need_text(request, "target_branch"),
        "head_ref": need_text(request, "source_branch"),
        "fork": source is None or source != target,
        "draft": flag_at(request, "draft") or flag_at(request, "work_in_progress"),
        "merged": text_at(request, "state") == "merged" or text_at(request, "action") == "merge",
        "head_repository": text_at(request, "source.path_with_namespace"),
        "changed_paths": None,
    }
    after = sha_at(request, "last_commit.id")
    return (Reading("pr", f"refs/merge-requests/{number}/head", after, "", keep_told(facts)),)


def _name_action(payload: Payload) -> str:
    """In the words that all forges are read into: those of GitHub."""
    action = text_at(payload, "object_attributes.action", 50)
    if action != "update":
        return _ACTIONS.get(action, action)
    if maybe_sha_at(payload, "object_attributes.oldrev"):
        return "synchronize"
    changes = value_at(payload, "changes")
    if value_at(changes, "draft.previous") is True and value_at(changes, "draft.current") is False:
        return "ready_for_review"
    return "labeled" if value_at(changes, "labels") is not None else "edited"


def _read_release(payload: Payload) -> tuple[Reading, ...]:
    action = text_at(payload, "action", 50)
    facts = {
        **_common(payload),
        "action": _RELEASE_ACTIONS.get(action, action),
        "id": number_at(payload, "id"),
        "title": text_at(payload, "name"),
        "url": text_at(payload, "url", 500),
        "tag": need_text(payload, "tag"),
        "prerelease": False,
    }
    after = maybe_sha_at(payload, "commit.id")
    return (Reading("release", ref_at(payload, "tag", "refs/tags/"), after, "", keep_told(facts)),)


def _read_pipeline(payload: Payload) -> tuple[Reading, ...]:
    pipeline, request = value_at(payload, "object_attributes"), value_at(payload, "merge_request")
    jobs = list_at(payload, "builds")
    ours = bool(jobs) and all(text_at(job, "name").startswith(OWN_REPORTS) for job in jobs)
    if ours and text_at(pipeline, "source") == "external":
        return ()  # GitLab makes a pipeline of the statuses that we tell it
    source, target = value_at(request, "source_project_id"), value_at(request, "target_project_id")
    fork = request is not None and source != target
    facts = {
        **_common(payload),
        **_result_facts(text_at(pipeline, "status", 50)),
        "id": number_at(pipeline, "id"),
        "title": text_at(pipeline, "name"),
        "url": text_at(pipeline, "url", 500),
        "head_ref": text_at(pipeline, "ref"),
        "fork": fork,
    }
    # A branch of a fork is none of this project's, even if it is called `main`.
    ref = f"refs/merge-requests/{number_at(request, 'iid')}/head" if fork else _result_ref(pipeline)
    after, before = sha_at(pipeline, "sha"), maybe_sha_at(pipeline, "before_sha")
    return (Reading("pipeline", ref, after, before, keep_told(facts)),)


def _read_job(payload: Payload) -> tuple[Reading, ...]:
    facts = {
        **_common(payload),
        **_result_facts(text_at(payload, "build_status", 50)),
        "id": number_at(payload, "build_id"),
        "title": text_at(payload, "build_name"),
        "head_ref": text_at(payload, "ref"),
    }
    after, before = sha_at(payload, "sha"), maybe_sha_at(payload, "before_sha")
    return (Reading("check", _result_ref(payload), after, before, keep_told(facts)),)


def _result_facts(status: str) -> dict[str, Any]:
    done = _CONCLUSIONS.get(status)
    return {"action": "completed" if done else "requested", "status": status, "conclusion": done}


def _result_ref(result: Any) -> str:
    if flag_at(result, "tag"):
        return ref_at(result, "ref", "refs/tags/")
    # A pipeline of a merge request has a ref of its own: refs/merge-requests/1/head, /merge, /train.
    if text_at(result, "ref").startswith("refs/"):
        return ref_at(result, "ref")
    return branch_ref(result, "ref")
