"""What a run leaves for the question what its artifacts cost."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.costs.ancestry import Ancestry
from maestro_dagster.costs.explain import explain_artifact, explain_run, explain_step
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.lineage import LineageRecord, read_lineage
from maestro_dagster.engine.engine import Engine
from maestro_dagster.errors import CostError, EvidenceError
from maestro_dagster.evidence import store
from maestro_dagster.llm.interface import ModelUsage
from maestro_dagster.manifest.money import parse_usd
from maestro_dagster.steps.interface import StepResult

Perform = Callable[..., Any]


def lineage_of(engine: Engine, run_id: str = "r1") -> dict[tuple[str, int], LineageRecord]:
    path = engine.services.spool.folder / "lineage" / f"{run_id}.ndjson"
    return {(record.step, record.iteration): record for record in read_lineage(path)}


def cost_report(engine: Engine, run_id: str = "r1") -> dict[str, Any]:
    with zipfile.ZipFile(engine.services.evidence_folder / f"{run_id}.zip") as archive:
        report: dict[str, Any] = json.loads(archive.read("cost-report.json"))
        return report


def check_sums(engine: Engine, run_id: str = "r1") -> None:
    """The lineage of a run adds up to its signed cost report, step by step and as a whole."""
    records, report = lineage_of(engine, run_id), cost_report(engine, run_id)
    assert sum(each.known_nano for each in records.values()) == parse_usd(report["known_usd"])
    assert sum(each.unknown for each in records.values()) == report["unknown_events"]
    assert sum(each.failed_nano for each in records.values()) == parse_usd(report["failures"]["known_usd"])
    for line in report["by_step"]:
        own = [each for each in records.values() if each.step == line["step"]]
        assert sum(each.known_nano for each in own) == parse_usd(line["known_usd"])


def ancestry_of(engine: Engine) -> Ancestry:
    folder = engine.services.spool.folder
    return Ancestry(folder, open_lake(folder.parent / "lake"))


def test_a_diamond_is_recorded_with_what_each_step_read(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "top", "uses": support.CALL},
        {"id": "left", "needs": ["top"]},
        {"id": "right", "uses": support.CALL, "needs": ["top"], "with": {"fail_first": 1}, "retries": 2},
        {"id": "end", "needs": ["left", "right"]},
    )
    perform(flow)
    records = lineage_of(engine)
    check_sums(engine)
    assert [(each.run_id, each.step) for each in records["end", -1].inputs] == [
        ("r1", "left"),
        ("r1", "right"),
    ]
    assert records["end", -1].inputs[0].digest == records["left", -1].digest
    right = records["right", -1]
    assert right.attempts == 2
    assert right.retry_nano >= 4321  # the second call, and what the second attempt computed
    assert right.failed_nano == right.known_nano - right.retry_nano - 4321  # the first call itself succeeded
    value = explain_step(ancestry_of(engine), "r1", "end")
    assert value["total"]["cost_usd"] == cost_report(engine)["total_usd"]  # `top` once, not twice
    assert value["lineage"] == {"records": 4, "runs": 1, "depth": 2}


def test_a_map_is_made_of_its_iterations(engine: Engine, perform: Perform, support: ModuleType) -> None:
    flow = support.make_flow(
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": [1, 2, 3], "uses": support.CALL, "with": {"text": "${{ item }}"}},
        },
        {"id": "end", "needs": ["each"]},
    )
    perform(flow)
    check_sums(engine)
    records = lineage_of(engine)
    assert {iteration for step, iteration in records if step == "each"} == {-1, 0, 1, 2}
    assert [each.iteration for each in records["each", -1].inputs] == [0, 1, 2]
    assert all(records["each", number].known_nano >= 4321 for number in range(3))
    value = explain_step(ancestry_of(engine), "r1", "end")
    # The three iterations made the same bytes, and each of them was paid for.
    assert value["total"]["cost_usd"] == cost_report(engine)["total_usd"]
    assert value["lineage"]["records"] == 5


def test_what_failed_was_skipped_or_cancelled_has_a_record_too(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "bad", "uses": support.CALL, "with": {"fail_first": 9}, "retries": 1},
        {"id": "after", "needs": ["bad"]},
        {"id": "apart"},
    )
    perform(flow)
    check_sums(engine)
    records = lineage_of(engine)
    assert {each.step: each.status for each in records.values()} == {
        "bad": "failed",
        "after": "skipped",
        "apart": "done",
    }
    assert records["bad", -1].digest == ""
    value = explain_run(ancestry_of(engine), "r1")
    assert value["steps"][0]["step"] == "bad"
    assert value["total"]["failed_usd"] == cost_report(engine)["failures"]["known_usd"] != "0"
    assert value["total"]["retry_usd"] != "0"


def test_what_was_taken_over_counts_at_its_making_and_is_saved_here(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    tasks = ({"id": "dear", "uses": support.CALL}, {"id": "next", "needs": ["dear"], "with": {"text": "a"}})
    perform(support.make_flow(*tasks))
    other = (tasks[0], {"id": "next", "needs": ["dear"], "with": {"text": "b"}})
    perform(support.make_flow(*other), "r2", reuse_from="r1")
    check_sums(engine, "r2")
    taken, made = lineage_of(engine, "r2")["dear", -1], lineage_of(engine)["dear", -1]
    assert (taken.reused, taken.source_run, taken.source_day) == (True, "r1", made.day)
    assert (taken.known_nano, taken.saved_nano) == (0, made.known_nano)
    value = explain_step(ancestry_of(engine), "r2", "next")
    own = lineage_of(engine, "r2")["next", -1].known_nano
    assert parse_usd(value["total"]["cost_usd"]) == own + made.known_nano
    assert value["saved"] == {"reused": 1, "saved_usd": value["inputs"]["known_usd"], "unknown": 0}
    both = explain_artifact(ancestry_of(engine), made.digest)
    assert (both["run_id"], both["reuse"]["runs"]) == ("r1", 1)
    # A third run takes it from the second: its maker is still the first.
    perform(support.make_flow(*other), "r3", reuse_from="r2")
    again = lineage_of(engine, "r3")
    assert (again["dear", -1].source_run, again["next", -1].source_run) == ("r1", "r2")
    assert again["dear", -1].saved_nano == made.known_nano
    assert explain_step(ancestry_of(engine), "r3", "next")["total"] == value["total"]


def test_a_selection_names_the_run_that_its_inputs_come_from(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow({"id": "dear", "uses": support.CALL}, {"id": "next", "needs": ["dear"]})
    perform(flow)
    perform(flow, "r2", reuse_from="r1", selection=("next",))
    value = explain_step(ancestry_of(engine), "r2", "next")
    assert value["lineage"]["runs"] == 2
    assert value["without_record"] == []
    assert parse_usd(value["inputs"]["known_usd"]) == lineage_of(engine)["dear", -1].known_nano


def test_an_asset_of_elsewhere_is_found_by_its_digest_or_named_as_lost(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    perform(support.make_flow({"id": "dear", "uses": support.CALL}))
    made = lineage_of(engine)["dear", -1]
    strange = engine.services.store.put_bytes(b"made by hand", "text/plain")
    flow = support.make_flow({"id": "reader", "assets": {"one": "maestro/dear", "two": "by/hand"}})
    engine.request(support.make_request("r2", flow))
    assets = {"maestro/dear": Artifact(made.digest, made.media_type, made.size), "by/hand": strange}
    list(engine.stream_segment("r2", ("reader",), assets=assets))
    engine.close("r2")
    value = explain_step(ancestry_of(engine), "r2", "reader")
    assert value["inputs"]["cost_usd"] is not None
    assert value["direct_inputs"][0]["run_id"] == "r1"
    assert [each["digest"] for each in value["without_record"]] == [strange.digest]
    assert value["total"]["cost_usd"] is None  # something in it is not known
    assert (
        parse_usd(value["total"]["known_usd"])
        == made.known_nano + lineage_of(engine, "r2")["reader", -1].known_nano
    )


def test_what_has_no_price_stays_unknown_and_is_named(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    class Unpriced(support.Call):  # type: ignore[name-defined, misc]
        async def run(self, context: Any, config: Any, inputs: Any) -> StepResult:
            call = await context.ledger.intend("openai", "gpt", None)
            await context.ledger.settle(call, ModelUsage(10, 20, cost_nano=None))
            return StepResult(data=b"answer", media_type="text/plain")

    kinds = support.Kinds()
    kinds._own[support.CALL] = Unpriced()
    engine = open_engine(catalogue=kinds)
    flow = support.make_flow({"id": "one", "uses": support.CALL}, {"id": "two", "needs": ["one"]})
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ("one", "two")))
    engine.close("r1")
    check_sums(engine)
    one = lineage_of(engine)["one", -1]
    assert (one.cost_nano, one.unknown, one.missing) == (None, 1, ("llm openai gpt",))
    value = explain_step(ancestry_of(engine), "r1", "two")
    assert (value["own"]["unknown_events"], value["total"]["unknown_events"]) == (0, 1)
    assert (value["total"]["cost_usd"], value["missing"]) == (None, ["llm openai gpt"])
    engine.request(support.make_request("r2", flow, reuse_from="r1"))
    list(engine.stream_segment("r2", ("one", "two")))
    engine.close("r2")
    assert lineage_of(engine, "r2")["one", -1].saved_nano is None


def test_a_crash_before_the_evidence_is_stored_repeats_the_same_bytes(
    engine: Engine, support: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = support.make_flow(
        {"id": "one"}, {"id": "two", "if": "params.way == 'b'"}, params={"way": {"default": "a"}}
    )
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ("one",)))
    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", _full)
        with pytest.raises(EvidenceError):
            engine.close("r1")
    path = engine.services.spool.folder / "lineage" / "r1.ndjson"
    before = path.read_bytes()
    assert engine.view("r1").evidence is None  # not closed, so nothing may take the usage away yet
    bundle = engine.close("r1")
    assert path.read_bytes() == before
    # A bundle that was lost later is made again; by then the usage may be gone, so its lineage is not.
    bundle.unlink()
    path.unlink()
    engine.close("r1")
    assert not path.exists()


def test_lineage_that_cannot_be_written_keeps_the_run_open(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"})
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ("one",)))
    blocker = engine.services.spool.folder / "lineage"
    blocker.write_text("in the way")
    with pytest.raises(CostError):
        engine.close("r1")
    assert engine.view("r1").evidence is None
    blocker.unlink()
    engine.close("r1")
    check_sums(engine)


def _full(*_: object) -> None:
    raise EvidenceError("the disk is full, the evidence was not written", code="disk-full")
