from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.translate.flow import build_flow_assets, build_flow_job, build_flow_schedules
from maestro_dagster.translate.runtime import Runtime
from maestro_dagster.translate.translator import FlowTranslator, FlowTranslatorSettings, Product

Make = dict[str, Callable[..., Any]]


def run_job(
    runtime: Runtime, instance: dg.DagsterInstance, flow: Any, *assets: Any, **how: Any
) -> dg.ExecuteInProcessResult:
    made = build_flow_assets(flow, how.pop("translator", None), runtime=lambda: runtime)
    definitions = dg.Definitions(assets=[*made, *assets], jobs=[build_flow_job(flow)])
    job = definitions.resolve_implicit_global_asset_job_def() if assets else None
    job = job or definitions.resolve_job_def(flow.name.replace("-", "__"))
    return job.execute_in_process(instance=instance, raise_on_error=False, **how)


def materialisation(instance: dg.DagsterInstance, *key: str) -> dg.AssetMaterialization | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(key))
    return event.asset_materialization if event else None


def test_a_flow_run_in_dagster_shows_all_that_a_person_looks_for(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"]("small-one", make["text"]("first", "hello"), make["text"]("second", "again", "first"))
    result = run_job(runtime, instance, flow)
    assert result.success
    run_id = f"ui-{result.run_id}-small-one"
    first = materialisation(instance, "small-one", "first")
    assert first is not None
    view = runtime.engine.view(run_id)
    steps = {step.step: step for step in view.steps}
    artifact = steps["first"].artifact
    assert artifact is not None
    found = {name: value.value for name, value in first.metadata.items()}
    assert found["digest"] == artifact.digest
    assert found["size"] == len("hello")
    assert found["media_type"] == artifact.media_type
    assert found["maestro/run_id"] == run_id
    assert found["evidence"] == view.evidence
    assert found["preview"] == "hello"
    assert float(found["cost_usd_exact"]) == found["cost_usd"] > 0
    assert {"latency_ms"} < set(found)
    assert (first.tags or {})["dagster/data_version"] == artifact.digest
    second = materialisation(instance, "small-one", "second")
    assert second is not None
    assert (second.tags or {})["dagster/input_data_version/small-one/first"] == artifact.digest
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["maestro/run_id"] == run_id


def test_evidence_sbom_and_checks_are_there(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"]("small-one", make["text"]("first", "hello"))
    result = run_job(runtime, instance, flow)
    evidence = materialisation(instance, "small-one", "evidence")
    assert evidence is not None
    path = Path(str(evidence.metadata["path"].value))
    signer = runtime.engine.services.signer
    assert signer is not None
    assert verify_bundle(path, [signer.public_pem]).ok
    assert "data:image/svg+xml;base64," in str(evidence.metadata["timeline"].value)
    assert materialisation(instance, "small-one", "sbom") is not None
    checks = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert checks == {"policy_allows": True, "evidence_complete": True, "evidence_verified": True}


def test_after_a_failed_step_independent_ones_go_on_and_the_evidence_says_so(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"](
        "half-broken",
        make["text"]("a", "no json"),
        make["broken"]("bad", "a"),
        make["text"]("behind", "x", "bad"),
        make["text"]("beside", "y", "a"),
    )
    result = run_job(runtime, instance, flow)
    assert not result.success
    failure = result.get_step_failure_events()[0].step_failure_data.user_failure_data
    assert failure is not None
    assert {"fact", "place", "remedy", "code", "step"} <= set(failure.metadata)
    assert failure.metadata["step"].value == "bad"
    assert materialisation(instance, "half-broken", "beside") is not None
    assert materialisation(instance, "half-broken", "behind") is None
    evidence = materialisation(instance, "half-broken", "evidence")
    assert evidence is not None
    assert evidence.metadata["status"].value == "failed"


def test_a_denied_run_starts_no_step_and_says_which_rule(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"]("denied-one", make["text"]("a", "x"), region="KP")
    result = run_job(runtime, instance, flow)
    assert not result.success
    (view,) = runtime.engine.list_runs(10)
    assert view.status == "denied"
    assert {step.status for step in view.steps} == {"skipped"}
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert not checks["policy_allows"].passed
    assert "residency" in (checks["policy_allows"].description or "")


def test_a_subset_started_in_the_ui_names_the_run_its_inputs_come_from(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"]("small-one", make["text"]("first", "hello"), make["text"]("second", "again", "first"))
    whole = run_job(runtime, instance, flow)
    part = run_job(runtime, instance, flow, asset_selection=[dg.AssetKey(["small-one", "second"])])
    assert part.success
    view = runtime.engine.view(f"ui-{part.run_id}-small-one")
    assert {step.step: step.status for step in view.steps} == {"first": "reused", "second": "done"}
    row = runtime.engine.services.journal.run(view.run_id)
    assert row.reuse_from == f"ui-{whole.run_id}-small-one"
    events = instance.fetch_materializations(dg.AssetKey(["small-one", "evidence"]), limit=5).records
    assert len(events) == 2, "the evidence was not selected, and is recorded all the same"


def test_names_that_dagster_would_confuse_run_side_by_side(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    names = ["a-b", "a_b", "input", "evidence", "sbom", "result", "None"]
    flow = make["flow"]("odd-names", *(make["text"](name, name) for name in names))
    assert run_job(runtime, instance, flow).success
    for name in names:
        found = materialisation(instance, "odd-names", name)
        assert found is not None
        assert found.metadata["preview"].value == name
    assert materialisation(instance, "odd-names", "evidence-2") is not None


def test_flows_on_push_are_partitioned_and_manual_runs_have_a_partition_too(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    flow = make["flow"]("pushed-one", make["text"]("a", "x"), on=[{"event": "push"}])
    instance.add_dynamic_partitions("maestro/pushed-one", ["manual"])
    assert run_job(runtime, instance, flow, partition_key="manual").success
    found = materialisation(instance, "pushed-one", "a")
    assert found is not None
    assert found.partition == "manual"
    assert runtime.engine.list_runs(1)[0].partition is None


def test_control_steps_live_in_the_journal_and_pass_edges_on(make: Make) -> None:
    branch = {
        "id": "choose",
        "uses": "pkg:control/branch@1.0.0",
        "needs": ["a"],
        "with": {"value": "x", "cases": [{"equals": "x", "steps": ["left"]}], "default": ["right"]},
    }
    flow = make["flow"](
        "branchy",
        make["text"]("a", "x"),
        branch,
        make["text"]("left", "l", "choose"),
        make["text"]("right", "r", "choose"),
    )
    (assets,) = build_flow_assets(flow)
    keys = {key.path[-1] for key in assets.keys}
    assert keys == {"a", "left", "right", "evidence", "sbom"}
    specs = {spec.key.path[-1]: {dep.asset_key.path[-1] for dep in spec.deps} for spec in assets.specs}
    assert specs["left"] == {"a"}
    assert specs["evidence"] == {"left", "right"}


def test_a_schedule_of_the_flow_is_one_of_dagster_and_its_runs_say_so(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    on = [{"event": "push"}, {"event": "schedule", "schedule": "0 7 * * *"}]
    flow = make["flow"]("by-clock", make["text"]("a", "x"), on=on)
    (schedule,) = build_flow_schedules(flow)
    assert (schedule.name, schedule.cron_schedule, schedule.job_name) == (
        "by__clock_schedule",
        "0 7 * * *",
        "by__clock",
    )
    (wanted,) = schedule.evaluate_tick(dg.build_schedule_context(instance=instance)).run_requests or []
    tags = {**wanted.tags, "dagster/schedule_name": schedule.name}
    assert tags["dagster/partition"] == "manual"
    assert run_job(runtime, instance, flow, tags=tags).success
    (view,) = runtime.engine.list_runs(5)
    assert (view.cause, view.partition) == ("schedule", None)
    assert instance.get_dynamic_partitions("maestro/by-clock") == ["manual"]


def test_the_translator_decides_how_a_flow_looks(make: Make) -> None:
    class Mine(FlowTranslator):
        def get_asset_key(self, product: Product) -> dg.AssetKey:
            return dg.AssetKey(["mine", product.flow.name, product.name])

        def get_group_name(self, product: Product) -> str | None:
            return "ours"

    flow = make["flow"](
        "small-one", make["text"]("a", "x"), owners=["a@b.cd", "Team X"], labels={"team": "r&d"}
    )
    (assets,) = build_flow_assets(flow, Mine(FlowTranslatorSettings(enable_checks=False)))
    assert assets.keys == {dg.AssetKey(["mine", "small-one", name]) for name in ("a", "evidence", "sbom")}
    assert set(assets.group_names_by_key.values()) == {"ours"}
    assert not list(assets.check_keys)
    spec = next(iter(assets.specs))
    assert list(spec.owners) == ["a@b.cd", "team:Team-X", "team:r-d"]
    assert spec.code_version or spec.key.path[-1] in {"evidence", "sbom"}


def test_the_package_exports_lazily() -> None:
    script = (
        "import sys, maestro_dagster; assert 'dagster' not in sys.modules;"
        "assert 'FlowComponent' in dir(maestro_dagster);"
        "maestro_dagster.FlowComponent, maestro_dagster.build_flow_assets, maestro_dagster.FlowTranslator;"
        "assert 'dagster' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
