"""Deliveries of GitHub. Fields: docs.github.com/webhooks/webhook-events-and-payloads.

Pull requests and checks of Gitea are close enough to be read by the same functions.
"""

from __future__ import annotations

from typing import Any

from maestro_dagster.events.webhook_field import (
    DETACHED,
    Payload,
    Reading,
    branch_ref,
    changed_paths,
    first_line,
    flag_at,
    is_zero,
    keep_told,
    kind_of,
    label_names,
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

EVENT_HEADERS = ("x-github-event",)
DELIVERY_HEADERS = ("x-github-delivery",)
_MOST_COMMITS = 2048  # GitHub lists no more
_OWN_APP = "maestro"  # how the short name of the App starts with whose token results are told
_CHECKS = ("check_suite", "check_run", "workflow_job")


def name_event(headers: Payload, payload: Payload) -> str:
    del payload
    return text_at(headers, "x-github-event")


def name_repository(payload: Payload) -> str:
    return text_at(payload, "repository.full_name")


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    if event in ("ping", "create"):
        return ()  # what a `create` tells, the push that comes with it tells too
    if event in _CHECKS:
        return _read_check(event, payload)
    read = {
        "push": read_push,
        "pull_request": read_pull_request,
        "release": read_release,
        "delete": read_delete,
        "workflow_run": read_workflow_run,
        "status": _read_status,
    }.get(event)
    return None if read is None else read(payload)


def common_facts(payload: Payload) -> dict[str, Any]:
    """What every delivery has."""
    return {
        "action": text_at(payload, "action", 50),
        "actor": text_at(payload, "sender.login", 100),
        "default_branch": text_at(payload, "repository.default_branch"),
    }


def read_push(payload: Payload) -> tuple[Reading, ...]:
    forced = flag_at(payload, "forced")
    commits = list_at(payload, "commits")
    facts = {
        **common_facts(payload),
        "title": first_line(payload, "head_commit.message"),
        "url": text_at(payload, "compare", 500),
        "forced": forced,
        "commits": len(commits),
        # A forced push also takes away what the commits that are gone had done.
        "changed_paths": changed_paths(commits, not forced and len(commits) < _MOST_COMMITS),
    }
    return (push_reading(payload, facts),)


def push_reading(payload: Payload, facts: Payload) -> Reading:
    """A push by the fields `ref`, `before` and `after`, as GitHub, GitLab and Gitea name them."""
    ref, before, after = ref_at(payload, "ref"), sha_at(payload, "before"), sha_at(payload, "after")
    kind = kind_of(ref, after)
    if kind == "delete":
        facts = {key: value for key, value in facts.items() if key != "changed_paths"}
    if len(before) != len(after) or (is_zero(before) and is_zero(after)):
        raise malformed("its `before` and `after` are no move of a ref")
    return Reading(kind, ref, after, before, keep_told(facts))


def read_pull_request(payload: Payload) -> tuple[Reading, ...]:
    request = value_at(payload, "pull_request")
    number = number_at(request, "number")
    head, base = value_at(request, "head.repo.id"), value_at(request, "base.repo.id")
    facts = {
        **common_facts(payload),
        "number": number,
        "title": text_at(request, "title"),
        "url": text_at(request, "html_url", 500),
        "labels": label_names(value_at(request, "labels"), "name"),
        "base_ref": need_text(request, "base.ref"),
        "head_ref": need_text(request, "head.ref"),
        "fork": head is None or head != base,  # the fork may be gone
        "draft": flag_at(request, "draft"),
        "merged": flag_at(request, "merged"),
        "head_repository": text_at(request, "head.repo.full_name"),
        "changed_paths": None,
    }
    after, before = sha_at(request, "head.sha"), maybe_sha_at(request, "base.sha")
    return (Reading("pr", f"refs/pull/{number}/head", after, before, keep_told(facts)),)


def read_release(payload: Payload) -> tuple[Reading, ...]:
    """A release names its tag, not the commit: `after` stays open."""
    release = value_at(payload, "release")
    facts = {
        **common_facts(payload),
        "id": number_at(release, "id"),
        "title": text_at(release, "name"),
        "url": text_at(release, "html_url", 500),
        "tag": need_text(release, "tag_name"),
        "base_ref": text_at(release, "target_commitish"),
        "prerelease": flag_at(release, "prerelease"),
        "draft": flag_at(release, "draft"),
    }
    return (Reading("release", ref_at(release, "tag_name", "refs/tags/"), "", "", keep_told(facts)),)


def read_delete(payload: Payload) -> tuple[Reading, ...]:
    prefix = {"branch": "refs/heads/", "tag": "refs/tags/"}.get(text_at(payload, "ref_type"))
    if prefix is None:
        raise malformed("its `ref_type` is neither branch nor tag")
    return (Reading("delete", ref_at(payload, "ref", prefix), "", "", keep_told(common_facts(payload))),)


def read_workflow_run(payload: Payload) -> tuple[Reading, ...]:
    run = value_at(payload, "workflow_run")
    head, base = value_at(run, "head_repository.id"), value_at(payload, "repository.id")
    fork = head is None or head != base
    facts = {
        **common_facts(payload),
        **_result_facts(run),
        "id": number_at(run, "id"),
        "title": text_at(run, "name") or text_at(payload, "workflow.name"),
        "head_ref": text_at(run, "head_branch"),
        "fork": fork,
        "attempt": value_at(run, "run_attempt") if isinstance(value_at(run, "run_attempt"), int) else None,
    }
    # A branch of a fork is none of this repository's, even if it is called `main`.
    ref = DETACHED if fork else branch_ref(run, "head_branch")
    return (Reading("pipeline", ref, sha_at(run, "head_sha"), "", keep_told(facts)),)


def _read_check(event: str, payload: Payload) -> tuple[Reading, ...]:
    check = value_at(payload, event)
    of_branch = value_at(check, "check_suite") if event == "check_run" else check
    if event == "check_suite" and text_at(check, "app.slug").startswith(_OWN_APP):
        return ()  # a suite does not name its runs: those of our own App would start runs for ever
    facts = {
        **common_facts(payload),
        **_result_facts(check),
        "id": number_at(check, "id"),
        "title": text_at(check, "name") or text_at(check, "app.name"),
        "head_ref": text_at(of_branch, "head_branch"),
    }
    return (
        Reading(
            "check", branch_ref(of_branch, "head_branch"), sha_at(check, "head_sha"), "", keep_told(facts)
        ),
    )


def _read_status(payload: Payload) -> tuple[Reading, ...]:
    state = text_at(payload, "state", 50)
    done = {"success": "success", "failure": "failure", "error": "failure"}.get(state)
    branches = list_at(payload, "branches")
    facts = {
        **common_facts(payload),
        "action": "completed" if done else "requested",
        "id": number_at(payload, "id"),
        "title": text_at(payload, "context"),
        "url": text_at(payload, "target_url", 500),
        "status": state,
        "conclusion": done,
    }
    ref = branch_ref(branches[0], "name") if branches else DETACHED
    return (Reading("check", ref, sha_at(payload, "sha"), "", keep_told(facts)),)


def _result_facts(result: Any) -> dict[str, Any]:
    return {
        "url": text_at(result, "html_url", 500) or text_at(result, "url", 500),
        "status": text_at(result, "status", 50),
        "conclusion": text_at(result, "conclusion", 50),
    }
