"""The filters of `on:`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maestro_dagster.events.filter import flow_wants, matches
from maestro_dagster.events.interface import Kind, RepositoryEvent
from maestro_dagster.manifest.model import Flow


def flow(*triggers: dict[str, Any]) -> Flow:
    return Flow.model_validate(
        {
            "name": "flow",
            "version": "1.0.0",
            "on": triggers,
            "tasks": [{"id": "a", "uses": "pkg:http/get@1.0.0"}],
        }
    )


def event(ref: str = "refs/heads/main", after: str = "b" * 40) -> RepositoryEvent:
    return RepositoryEvent("event-id", "/r", "a" * 40, after, ref, 1.0)


@pytest.mark.parametrize(
    ("trigger", "ref", "paths", "wanted"),
    [
        ({"event": "push"}, "refs/heads/any", [], True),
        ({"event": "push"}, "refs/tags/v1", [], False),
        ({"event": "push"}, "refs/pull/1/head", [], False),
        ({"event": "tag"}, "refs/tags/v1", [], True),
        ({"event": "tag", "branches": ["v*"]}, "refs/tags/v1", [], True),
        ({"event": "tag", "branches": ["v*"]}, "refs/tags/x1", [], False),
        ({"event": "tag"}, "refs/heads/v1", [], False),
        ({"event": "manual"}, "refs/heads/main", [], False),
        ({"event": "schedule", "schedule": "0 7 * * *"}, "refs/heads/main", [], False),
        ({"event": "push", "branches": ["main", "rel/*"]}, "refs/heads/rel/1/2", [], True),
        ({"event": "push", "branches": ["main", "rel/*"]}, "refs/heads/mainly", [], False),
        ({"event": "push", "branches": ["Main"]}, "refs/heads/main", [], False),
        ({"event": "push", "paths": ["src/**"]}, "refs/heads/main", ["docs/a", "src/a/b.py"], True),
        ({"event": "push", "paths": ["src/**"]}, "refs/heads/main", ["docs/a"], False),
        ({"event": "push", "paths": ["src/**"]}, "refs/heads/main", [], False),
        ({"event": "push", "paths": ["**/*.py"]}, "refs/heads/main", ["a.py"], True),
        ({"event": "push", "paths": ["!docs/**"]}, "refs/heads/main", ["docs/a"], False),
        ({"event": "push", "paths": ["!docs/**"]}, "refs/heads/main", ["docs/a", "b"], True),
        ({"event": "push", "branches": ["x"], "paths": ["src/**"]}, "refs/heads/main", ["src/a"], False),
    ],
)
def test_a_trigger(trigger: dict[str, Any], ref: str, paths: list[str], wanted: bool) -> None:
    assert flow_wants(flow(trigger), event(ref), paths) is wanted


PR: dict[str, Any] = {
    "action": "opened",
    "base_ref": "main",
    "head_ref": "feature/x",
    "fork": False,
    "labels": ["deploy"],
}


def told(kind: Kind, ref: str = "refs/pull/7/head", **facts: Any) -> RepositoryEvent:
    known = RepositoryEvent("event-id", "/r", "a" * 40, "b" * 40, ref, 1.0, "webhook")
    return replace(known, kind=kind, facts=facts)


@pytest.mark.parametrize(
    ("trigger", "facts", "wanted"),
    [
        ({}, {}, True),
        ({}, {"action": "synchronize"}, True),
        ({}, {"action": "reopened"}, True),
        ({}, {"action": "ready_for_review"}, True),
        ({}, {"action": "labeled"}, False),
        ({}, {"action": "closed"}, False),
        ({}, {"action": None}, False),
        ({"actions": ["labeled"]}, {"action": "labeled"}, True),
        ({"actions": ["labeled"]}, {}, False),
        ({"actions": ["closed"]}, {"action": "closed", "merged": False}, True),
        ({"actions": ["closed"]}, {"action": "closed", "merged": True}, False),
        ({"actions": ["closed", "merged"]}, {"action": "closed", "merged": True}, True),
        ({"actions": ["closed"]}, {"action": "merged"}, False),
        ({"actions": ["merged"]}, {"action": "closed", "merged": True}, True),
        ({"actions": ["merged"]}, {"action": "closed", "merged": False}, False),
        ({"branches": ["main"]}, {}, True),
        ({"branches": ["feature/*"]}, {}, False),
        ({"branches": ["main"]}, {"base_ref": "refs/heads/main"}, True),
        ({"branches": ["main"]}, {"base_ref": None}, False),
        ({"labels": ["dep*"]}, {}, True),
        ({"labels": ["docs"]}, {}, False),
        ({"labels": ["deploy"]}, {"labels": "deploy"}, False),
        ({"labels": ["!wip"]}, {"labels": []}, True),
        ({"labels": ["!wip"]}, {"labels": ["deploy", "wip"]}, False),
        ({"labels": ["deploy", "!wip"]}, {"labels": []}, False),
        ({}, {"fork": True}, False),
        ({}, {"fork": None}, False),
        ({"forks": True}, {"fork": True}, True),
        ({"forks": True}, {"fork": None}, True),
        ({"forks": True, "labels": ["safe"]}, {"fork": True}, False),
        ({"paths": ["src/**"]}, {}, True),
        ({"paths": ["docs/**"]}, {}, False),
    ],
)
def test_a_pull_request(trigger: dict[str, Any], facts: dict[str, Any], wanted: bool) -> None:
    found = flow({"event": "pr", **trigger})
    assert flow_wants(found, told("pr", **{**PR, **facts}), ["src/a.py"]) is wanted


@pytest.mark.parametrize(
    ("trigger", "event", "wanted"),
    [
        ({"event": "push"}, told("pr", **PR), False),
        ({"event": "pr"}, told("push", "refs/heads/main", fork=False, action="opened"), False),
        ({"event": "release"}, told("release", "refs/tags/v1", action="published"), True),
        ({"event": "release"}, told("release", "refs/tags/v1", action="created"), False),
        ({"event": "release", "actions": ["edited"]}, told("release", "refs/tags/v1", action="edited"), True),
        (
            {"event": "release", "branches": ["v2*"]},
            told("release", "refs/tags/v1", action="published"),
            False,
        ),
        ({"event": "tag"}, told("release", "refs/tags/v1", action="published"), False),
        ({"event": "pipeline"}, told("pipeline", action="completed", conclusion="success"), True),
        ({"event": "pipeline"}, told("pipeline", action="requested"), False),
        ({"event": "pipeline", "actions": ["requested"]}, told("pipeline", action="requested"), True),
        ({"event": "check", "actions": ["requested"]}, told("check", action="rerequested"), True),
        (
            {"event": "pipeline", "conclusions": ["failure"]},
            told("pipeline", action="completed", conclusion="success"),
            False,
        ),
        (
            {"event": "pipeline", "conclusions": ["failure"]},
            told("pipeline", action="completed", conclusion="startup_failure"),
            True,
        ),
        (
            {"event": "pipeline", "branches": ["main"]},
            told("pipeline", "refs/heads/main", action="completed"),
            True,
        ),
        (
            {"event": "check", "branches": ["feature/*"]},
            told("check", "refs/pull/7/head", action="completed", head_ref="feature/x"),
            True,
        ),
        (
            {"event": "check", "branches": ["main"]},
            told("check", "refs/detached/head", action="completed"),
            False,
        ),
        ({"event": "check"}, told("check", action="completed", fork=True), False),
        ({"event": "check", "forks": True}, told("check", action="completed", fork=True), True),
        ({"event": "check"}, told("pipeline", action="completed"), False),
        ({"event": "delete"}, event(after="0" * 40), True),
        ({"event": "delete", "branches": ["v*"]}, event("refs/tags/v1", "0" * 40), True),
        ({"event": "delete", "branches": ["v*"]}, event(after="0" * 40), False),
        ({"event": "delete"}, event(), False),
    ],
)
def test_other_events(trigger: dict[str, Any], event: RepositoryEvent, wanted: bool) -> None:
    assert flow_wants(flow(trigger), event, []) is wanted


def test_any_trigger_is_enough_and_none_is_none() -> None:
    assert flow_wants(flow({"event": "tag"}, {"event": "push"}), event(), [])
    assert not flow_wants(flow(), event(), [])


def test_a_deleted_ref_is_no_push() -> None:
    assert not flow_wants(flow({"event": "push"}, {"event": "tag"}), event(after="0" * 40), [])
    assert not flow_wants(flow({"event": "tag"}), event("refs/tags/v1", "0" * 40), [])


def test_paths_are_read_once_and_only_when_asked_for() -> None:
    calls = []

    def read() -> list[str]:
        calls.append(1)
        return ["x"]

    assert flow_wants(flow({"event": "push"}), event(), read)
    assert calls == []
    two = flow({"event": "push", "paths": ["a"]}, {"event": "push", "paths": ["b"]})
    assert not flow_wants(two, event(), read)
    assert calls == [1]


def test_the_last_pattern_decides() -> None:
    assert matches("rel/1", ["rel/*", "!rel/old"])
    assert not matches("rel/old", ["rel/*", "!rel/old"])
    assert matches("rel/old", ["!rel/*", "rel/old"])
