"""What packs see of the event that asked for a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.engine.admission import describe_event
from maestro_dagster.events.interface import Kind, RepositoryEvent
from maestro_dagster.events.source import read_event_facts
from maestro_dagster.manifest.model import Flow
from maestro_dagster.policy.document import build_document
from maestro_dagster.policy.engine import EmbeddedEngine


def describe(kind: Kind, **facts: Any) -> dict[str, Any] | None:
    event = RepositoryEvent(
        *("event-0001", "/r", "a" * 40, "b" * 40, "refs/heads/x", 1.0, "webhook", "shop"),
        kind=kind,
        facts=facts,
    )
    return describe_event(read_event_facts(event))


def test_an_event_is_told_in_full() -> None:
    facts = {"number": 7, "action": "opened", "labels": ["a", "b"], "base_ref": "main", "fork": False}
    assert describe("pr", **facts) == {
        "kind": "pr",
        "action": "opened",
        "number": "7",
        "title": "",
        "base_ref": "main",
        "head_ref": "",
        "url": "",
        "conclusion": "",
        "repository": "/r",
        "ref": "refs/heads/x",
        "labels": ["a", "b"],
        "fork": False,
    }
    assert describe_event({"sha": "b" * 40}) is None, "a run by hand"


@pytest.mark.parametrize(
    ("event", "secrets", "allowed"),
    [
        (describe("pr", fork=True), ["TOKEN"], False),
        (describe("pr"), ["TOKEN"], False),
        (describe("check", fork=True), ["TOKEN"], False),
        (describe("pr", fork=True), [], True),
        (describe("pr", fork=False), ["TOKEN"], True),
        (describe("push"), ["TOKEN"], True),
        (None, ["TOKEN"], True),
    ],
)
def test_the_pack_of_the_page_on_flows_keeps_secrets_from_forks(
    repository: Path,
    packs: Callable[..., Path],
    embedded: Callable[..., EmbeddedEngine],
    event: dict[str, Any] | None,
    secrets: list[str],
    allowed: bool,
) -> None:
    page = (repository / "docs" / "flow.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"```rego\n(.*?)```", page, re.DOTALL)
    task = {"id": "a", "uses": "pkg:text/template@1.0.0", "secrets": secrets}
    document = build_document(
        Flow.model_validate({"name": "flow", "version": "1.0.0", "tasks": [task]}),
        request={"region": None, "event": event},
        estimated_cost_usd=None,
        budget_usd=None,
        effects={},
        now="2026-01-01T00:00:00Z",
        settings={},
    )
    decision = embedded(packs(forks=rules)).evaluate(document)
    assert decision.allow is allowed, decision.violations
    assert [violation.rule for violation in decision.violations] == ([] if allowed else ["fork-secret"])
