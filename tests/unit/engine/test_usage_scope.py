"""Whose usage it is: tenant, project, retention tier of the flow, and a surrogate for whoever asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from maestro_dagster.engine.engine import Engine


def run_flow(engine: Engine, support: ModuleType, flow: Any, **fields: Any) -> list[Any]:
    engine.request(support.make_request("r1", flow, **fields))
    assert engine.admit("r1").allow
    list(engine.stream_segment("r1", support.all_steps(flow)))
    engine.close("r1")
    return list(engine.services.spool.read_run("r1"))


def test_every_event_says_whose_it_is(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    engine = open_engine(
        tmp_path, tenant="acme", project_name="shop", subject_of=lambda person: f"surrogate-{len(person)}"
    )
    flow = support.make_flow(
        {"id": "call", "uses": support.CALL},
        {"id": "make", "with": {"bytes_in": 5}},
        retention_tier="short-30d",
    )
    events = run_flow(engine, support, flow, actor="mary@example.org")
    assert {event.kind for event in events} == {"llm", "compute", "memory", "network", "storage"}
    assert {(event.tenant, event.project, event.retention_tier, event.subject) for event in events} == {
        ("acme", "shop", "short-30d", "surrogate-16")
    }
    assert b"mary@example.org" not in b"".join(path.read_bytes() for path in tmp_path.glob("**/*.ndjson"))


def test_a_run_that_nobody_is_named_for_has_no_subject(engine: Engine, support: ModuleType) -> None:
    events = run_flow(engine, support, support.make_flow({"id": "make"}))
    assert {(event.project, event.retention_tier, event.subject) for event in events} == {
        ("default", "standard-365d", "")
    }


def test_memory_is_charged_for_the_time_of_the_attempt(engine: Engine, support: ModuleType) -> None:
    events = run_flow(engine, support, support.make_flow({"id": "make", "with": {"burn": 0.05}}))
    (memory,) = [event for event in events if event.kind == "memory"]
    (compute,) = [event for event in events if event.kind == "compute"]
    # Python alone takes some 10 MB; the process of the tests less than 100 GB.
    assert compute.wall_ms * 10**4 < memory.memory_kb_ms < compute.wall_ms * 10**8
    assert memory.cost_nano == -(-memory.memory_kb_ms * 1400 // 10**9)
