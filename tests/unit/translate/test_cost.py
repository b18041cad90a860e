"""What Dagster shows of an artifact's cost with its inputs, and of a run's failures and retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.engine.interface import StepOutcome
from maestro_dagster.manifest.model import Flow
from maestro_dagster.translate.event import RunCosts
from maestro_dagster.translate.flow import build_flow_assets, build_flow_job
from maestro_dagster.translate.runtime import Runtime

Make = dict[str, Callable[..., Any]]
MADE = StepOutcome(
    step="", uses="", status="done", attempts=1, artifact=Artifact("sha256:" + "0" * 64, "text/plain", 1),
    duration_ms=0, started_at=None, finished_at=0.0, cost_nano=0, tokens=0, facts={}, preview="", error=None,
    asset=True, fresh=True,
)  # fmt: skip


def costs_of(needs: dict[str, list[str]], nano: dict[str, int | None], **changes: Any) -> RunCosts:
    tasks = [{"id": step, "uses": "pkg:text/template@1.0.0", "needs": read} for step, read in needs.items()]
    flow = Flow.model_validate({"name": "one", "version": "1.0.0", "tasks": tasks})
    outcomes = (
        replace(MADE, step=step, cost_nano=cost, **changes.get(step, {})) for step, cost in nano.items()
    )
    return RunCosts(flow, outcomes)


DIAMOND = {"top": [], "left": ["top"], "right": ["top"], "end": ["left", "right"]}


def test_what_is_shared_is_counted_once() -> None:
    costs = costs_of(DIAMOND, {"top": 1000, "left": 100, "right": 10, "end": 1})
    assert costs.describe("end")["cost_with_inputs_usd_exact"] == "0.000001111"
    assert costs.describe("left")["cost_with_inputs_usd_exact"] == "0.0000011"
    assert costs.describe("top") == {}  # its own cost says the same


def test_an_unknown_price_is_no_number_and_what_made_nothing_is_not_followed() -> None:
    costs = costs_of(DIAMOND, {"top": 1000, "left": None, "right": 10, "end": 1})
    assert costs.describe("end") == {"cost_with_inputs_usd_exact": "unknown"}
    costs = costs_of(DIAMOND, {"top": 1000, "left": 7, "right": 10, "end": 1}, left={"artifact": None})
    assert costs.describe("end")["cost_with_inputs_usd_exact"] == "0.000001011"


def test_a_lineage_too_wide_is_left_to_the_command_line() -> None:
    needs = {f"s{number}": [f"s{number - 1}"] if number else [] for number in range(400)}
    costs = costs_of(needs, dict.fromkeys(needs, 1))
    assert costs.describe("s399") == {}
    assert costs.describe("s99")["cost_with_inputs_usd_exact"] == "0.0000001"


def test_dagster_shows_both(runtime: Runtime, instance: dg.DagsterInstance, make: Make) -> None:
    flow = make["flow"]("small-one", make["text"]("first", "hello"), make["text"]("second", "again", "first"))
    made = build_flow_assets(flow, None, runtime=lambda: runtime)
    definitions = dg.Definitions(assets=made, jobs=[build_flow_job(flow)])
    job = definitions.resolve_job_def("small__one")
    result = job.execute_in_process(instance=instance)
    assert result.success
    shown = {}
    for name in ("first", "second", "evidence"):
        event = instance.get_latest_materialization_event(dg.AssetKey(["small-one", name]))
        assert event is not None
        assert event.asset_materialization is not None
        shown[name] = {key: value.value for key, value in event.asset_materialization.metadata.items()}
    assert "cost_with_inputs_usd" not in shown["first"]
    both = shown["first"]["cost_usd"] + shown["second"]["cost_usd"]
    assert abs(float(shown["second"]["cost_with_inputs_usd_exact"]) - both) < 1e-12
    assert shown["second"]["cost_with_inputs_usd"] > shown["second"]["cost_usd"]
    assert (shown["evidence"]["cost_failures_usd"], shown["evidence"]["cost_retries_usd"]) == (0.0, 0.0)
    assert shown["evidence"]["cost_explained"] == "failures 0 USD, retries 0 USD, saved 0 USD"
