"""Service hooks of Azure DevOps. Fields: learn.microsoft.com/azure/devops/service-hooks/events."""

from __future__ import annotations

import re
from typing import Any

from maestro_dagster.events.webhook_field import (
    DETACHED,
    Payload,
    Reading,
    flag_at,
    keep_told,
    kind_of,
    label_names,
    list_at,
    malformed,
    maybe_sha_at,
    number_at,
    ref_at,
    sha_at,
    text_at,
    value_at,
)

EVENT_HEADERS = ()
DELIVERY_HEADERS = ()
_RUN_STATE = "ms.vss-pipelines.run-state-changed-event"
_CONCLUSIONS = {
    "succeeded": "success",
    "partiallysucceeded": "failure",
    "failed": "failure",
    "canceled": "cancelled",
    "stopped": "cancelled",
}
# A build of the older kind names its source as LG:<ref>:<commit>.
_SOURCE = re.compile(r"[A-Z]+:(?P<ref>refs/[^:]+):(?P<sha>[0-9a-f]{40})")


def name_event(headers: Payload, payload: Payload) -> str:
    del headers
    return text_at(payload, "eventType")


def name_repository(payload: Payload) -> str:
    """`Project/Repository`; empty for results, which do not always name theirs."""
    repository = value_at(payload, "resource.repository")
    project, name = text_at(repository, "project.name"), text_at(repository, "name")
    return f"{project}/{name}" if project and name else ""


def read_events(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    """None for a kind of event that is not known."""
    if event.startswith("git.pullrequest."):
        return _read_pull_request(event, payload)
    read = {"git.push": _read_push, "build.complete": _read_build, _RUN_STATE: _read_run}.get(event)
    return None if read is None else read(payload)


def _read_push(payload: Payload) -> tuple[Reading, ...]:
    resource = value_at(payload, "resource")
    facts = {
        "actor": text_at(resource, "pushedBy.uniqueName", 100)
        or text_at(resource, "pushedBy.displayName", 100),
        "default_branch": text_at(resource, "repository.defaultBranch").removeprefix("refs/heads/"),
        "id": value_at(resource, "pushId") and number_at(resource, "pushId"),
    }
    return tuple(_read_update(update, facts) for update in list_at(resource, "refUpdates"))


def _read_update(update: Any, facts: Payload) -> Reading:
    ref = ref_at(update, "name")
    before, after = sha_at(update, "oldObjectId"), sha_at(update, "newObjectId")
    if len(before) != len(after) or before == after:
        raise malformed("its `oldObjectId` and `newObjectId` are no move of a ref")
    kind = kind_of(ref, after)
    unknown = {} if kind == "delete" else {"changed_paths": None}
    return Reading(kind, ref, after, before, keep_told({**facts, **unknown}))


def _read_pull_request(event: str, payload: Payload) -> tuple[Reading, ...] | None:
    request, what = value_at(payload, "resource"), event.removeprefix("git.pullrequest.")
    if what not in ("created", "updated", "merged"):
        return None
    number, status = number_at(request, "pullRequestId"), text_at(request, "status", 50)
    head, base = ref_at(request, "sourceRefName"), ref_at(request, "targetRefName")
    fork = value_at(request, "forkSource") is not None
    facts = {
        "action": _name_action(what, status),
        "actor": text_at(request, "createdBy.uniqueName", 100),
        "number": number,
        "title": text_at(request, "title"),
        "url": text_at(request, "_links.web.href", 500) or text_at(request, "url", 500),
        "labels": label_names(value_at(request, "labels"), "name"),
        "base_ref": base.removeprefix("refs/heads/"),
        "head_ref": head.removeprefix("refs/heads/"),
        "fork": fork,
        "draft": flag_at(request, "isDraft"),
        "merged": status == "completed",
        "status": status,
        "changed_paths": None,
    }
    # Only the merge of a fork's branch is fetchable here; the commit itself is one of its parents.
    ref = f"refs/pull/{number}/merge" if fork else head
    after = sha_at(request, "lastMergeSourceCommit.commitId")
    before = maybe_sha_at(request, "lastMergeTargetCommit.commitId")
    return (Reading("pr", ref, after, before, keep_told(facts)),)


def _name_action(what: str, status: str) -> str:
    """In the words that all forges are read into: those of GitHub."""
    if status in ("completed", "abandoned"):
        return "closed"
    # `merged` tells that a merge was tried, which happens after each push.
    return {"created": "opened", "updated": "synchronize", "merged": "merge_tried"}[what]


def _read_build(payload: Payload) -> tuple[Reading, ...]:
    build = value_at(payload, "resource")
    found = _SOURCE.fullmatch(text_at(build, "sourceGetVersion", 1000))
    source = found.groupdict() if found else {"ref": value_at(build, "sourceBranch"), "sha": ""}
    facts = {
        **_result_facts(text_at(build, "result", 50) or text_at(build, "status", 50)),
        "actor": text_at(build, "requestedFor.uniqueName", 100),
        "id": number_at(build, "id"),
        "title": text_at(build, "definition.name"),
        "url": text_at(build, "_links.web.href", 500) or text_at(build, "url", 500),
    }
    after = source["sha"] or sha_at(build, "sourceVersion")
    return (_result(source["ref"], after, facts),)


def _read_run(payload: Payload) -> tuple[Reading, ...]:
    run = value_at(payload, "resource.run")
    source = value_at(run, "resources.repositories.self")
    facts = {
        **_result_facts(text_at(run, "result", 50) or text_at(run, "state", 50)),
        "id": number_at(run, "id"),
        "title": text_at(payload, "resource.pipeline.name") or text_at(run, "pipeline.name"),
        "url": text_at(run, "_links.web.href", 500) or text_at(run, "url", 500),
    }
    return (_result(value_at(source, "refName"), sha_at(source, "version"), facts),)


def _result(ref: Any, after: str, facts: Payload) -> Reading:
    named = ref_at({"ref": ref}, "ref") if ref else DETACHED
    told = {**facts, "head_ref": named.removeprefix("refs/heads/") if ref else None}
    return Reading("pipeline", named, after, "", keep_told(told))


def _result_facts(status: str) -> dict[str, Any]:
    done = _CONCLUSIONS.get(status.lower())
    return {"action": "completed" if done else "requested", "status": status.lower(), "conclusion": done}
