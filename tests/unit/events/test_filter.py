"""The filters of `on:`."""

from __future__ import annotations

from typing import Any

import pytest

from maestro_dagster.events.filter import flow_wants, matches
from maestro_dagster.events.interface import RepositoryEvent
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


def test_any_trigger_is_enough_and_none_is_none() -> None:
    assert flow_wants(flow({"event": "tag"}, {"event": "push"}), event(), [])
    assert not flow_wants(flow(), event(), [])


def test_a_deleted_ref_wants_nothing() -> None:
    assert not flow_wants(flow({"event": "push"}), event(after="0" * 40), [])


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
