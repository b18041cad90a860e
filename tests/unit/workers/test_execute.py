from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.errors import JournalError, KeyMissingError
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.root import find_project
from maestro_dagster.project.runtime import open_runtime
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.translate.lease import hold_lease
from maestro_dagster.translate.runtime import Runtime
from maestro_dagster.workers.dagster_run import dagster_runs
from maestro_dagster.workers.execute import close_dead_run, execute_run
from maestro_dagster.workers.instance import open_instance, prepare_dagster_home


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    init_project(tmp_path / "shop")
    made = open_runtime(find_project(tmp_path / "shop"))
    yield made
    made.engine.services.policy.close()
    made.engine.services.journal.close()


def text(step: str, *needs: str, **more: Any) -> dict[str, Any]:
    config = {"template": more.pop("template", step)}
    return {"id": step, "uses": "pkg:text/template@1.0.0", "needs": list(needs), "with": config, **more}


def request(runtime: Runtime, *tasks: dict[str, Any], name: str = "sample", **more: Any) -> str:
    flow = Flow.model_validate({"name": name, "version": "1.0.0", "tasks": tasks, **more})
    runtime.engine.request(RunRequest(run_id="run-1", flow=flow))
    return "run-1"


def recorded(runtime: Runtime, run_id: str, name: str = "sample") -> dict[str, int]:
    """Asset -> how often it was recorded for the run."""
    found: dict[str, int] = {}
    with open_instance(runtime.home) as instance:
        for key in instance.all_asset_keys():
            if key.path[0] == name:
                records = instance.fetch_materializations(key, limit=100).records
                tags = [
                    (record.asset_materialization.tags or {})
                    for record in records
                    if record.asset_materialization
                ]
                found[key.path[1]] = sum(1 for each in tags if each.get("maestro/run_id") == run_id)
    return {name: count for name, count in found.items() if count}


def test_a_run_leaves_its_steps_its_evidence_and_one_finished_dagster_run(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"), text("b", "a"))
    view = execute_run(runtime, run_id)
    assert view.status == "succeeded"
    assert recorded(runtime, run_id) == {"a": 1, "b": 1, "evidence": 1, "sbom": 1}
    with open_instance(runtime.home) as instance:
        (run,) = dagster_runs(instance, run_id)
        assert run.is_success
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == "maestro"
    assert runtime.engine.services.journal.begun() == []
    assert execute_run(runtime, run_id).status == "succeeded"
    assert recorded(runtime, run_id) == {"a": 1, "b": 1, "evidence": 1, "sbom": 1}


def test_where_dagster_would_skip_a_segment_another_dagster_run_goes_on(runtime: Runtime) -> None:
    """Step `bad` fails in the first segment; `beside`, behind a pod of its own, does not depend on it."""
    bad = {"id": "bad", "uses": "pkg:json/query@1.0.0", "needs": ["a"], "with": {"query": "x"}}
    run_id = request(
        runtime,
        text("a", template="no json"),
        bad,
        text("pod", "a", resources={"pod": True}),
        text("beside", "pod"),
    )
    view = execute_run(runtime, run_id)
    assert view.status == "failed"
    assert {step.step: step.status for step in view.steps} == {
        "a": "done", "bad": "failed", "pod": "done", "beside": "done",
    }  # fmt: skip
    assert recorded(runtime, run_id) == {"a": 1, "pod": 1, "beside": 1, "evidence": 1, "sbom": 1}
    with open_instance(runtime.home) as instance:
        runs = dagster_runs(instance, run_id)
        assert len(runs) == 2
        assert all(run.status == dg.DagsterRunStatus.FAILURE for run in runs)


def test_what_an_earlier_process_left_is_finished_and_its_dagster_run_ended(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"), text("b", "a"))
    list(runtime.engine.stream_segment(run_id, ["a"]))  # acknowledged, and recorded nowhere else
    with open_instance(runtime.home) as instance:
        dead = instance.create_run_for_job(
            dg.GraphDefinition(name="sample").to_job(), tags={"maestro/run_id": run_id}, status="STARTED"
        )
    view = execute_run(runtime, run_id)
    assert view.status == "succeeded"
    attempts = {step.step: step.attempts for step in view.steps}
    assert attempts == {"a": 1, "b": 1}
    assert recorded(runtime, run_id) == {"a": 1, "b": 1, "evidence": 1, "sbom": 1}
    with open_instance(runtime.home) as instance:
        found = instance.get_run_by_id(dead.run_id)
        assert found is not None
        assert found.status == dg.DagsterRunStatus.FAILURE


def test_a_run_that_died_after_it_was_closed_is_still_made_known_to_dagster(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"))
    list(runtime.engine.stream_segment(run_id, ["a"]))
    runtime.engine.close(run_id)
    assert execute_run(runtime, run_id).status == "succeeded"
    assert recorded(runtime, run_id) == {"a": 1, "evidence": 1, "sbom": 1}


def test_a_run_that_keeps_dying_is_closed_with_a_receipt(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"), text("b", "a"))
    list(runtime.engine.stream_segment(run_id, ["a"]))
    view = close_dead_run(runtime, run_id)
    assert view.status == "failed"
    assert view.evidence is not None
    assert recorded(runtime, run_id) == {"a": 1, "evidence": 1, "sbom": 1}


def test_a_denied_run_has_evidence_and_no_dagster_run(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"), region="KP")
    view = execute_run(runtime, run_id)
    assert view.status == "denied"
    assert recorded(runtime, run_id) == {"evidence": 1, "sbom": 1}
    with open_instance(runtime.home) as instance:
        assert dagster_runs(instance, run_id) == []


def test_a_run_that_another_process_holds_is_left_alone(runtime: Runtime) -> None:
    run_id = request(runtime, text("a"))
    with hold_lease(runtime.engine, run_id, "somebody else"), pytest.raises(JournalError) as caught:
        execute_run(runtime, run_id)
    assert caught.value.error_code == "run-busy"
    assert execute_run(runtime, run_id).status == "succeeded"


def test_a_project_without_a_key_runs_nothing(tmp_path: Path) -> None:
    init_project(tmp_path / "shop")
    (tmp_path / "shop/.maestro/keys/maestro.pem").unlink()
    runtime = open_runtime(find_project(tmp_path / "shop"))
    run_id = request(runtime, text("a"))
    with pytest.raises(KeyMissingError):
        execute_run(runtime, run_id)
    assert runtime.engine.services.journal.begun() == [run_id]
    assert runtime.engine.view(run_id).status == "requested"


def test_cancelling_ends_the_run_and_dagster_shows_it_as_cancelled(runtime: Runtime) -> None:
    steps = {
        "id": "slow",
        "uses": "pkg:shell/run@1.0.0",
        "isolation": "none",
        "with": {"argv": ["sleep", "20"]},
    }
    run_id = request(runtime, steps, text("behind", "slow"))

    def cancel() -> None:
        while runtime.engine.view(run_id).steps[1].status != "running":
            time.sleep(0.05)
        runtime.engine.cancel(run_id)

    asking = threading.Thread(target=cancel, daemon=True)
    asking.start()
    view = execute_run(runtime, run_id)
    asking.join()
    assert view.status == "cancelled"
    assert view.evidence is not None
    with open_instance(runtime.home) as instance:
        (run,) = dagster_runs(instance, run_id)
        assert run.status == dg.DagsterRunStatus.CANCELED
    assert recorded(runtime, run_id)["evidence"] == 1


def test_the_operators_own_dagster_yaml_is_kept(tmp_path: Path) -> None:
    folder = prepare_dagster_home(tmp_path)
    path = folder / "dagster.yaml"
    assert "enabled: false" in path.read_text()
    path.write_text(path.read_text().replace("MaestroRunLauncher", "Old"))
    prepare_dagster_home(tmp_path)
    assert "MaestroRunLauncher" in path.read_text()
    path.write_text("telemetry: {enabled: false}\n")
    prepare_dagster_home(tmp_path)
    assert path.read_text() == "telemetry: {enabled: false}\n"


def test_a_mark_goes_when_the_work_is_done(runtime: Runtime) -> None:
    with hold_lease(runtime.engine, "one", whole=True):
        assert runtime.engine.services.journal.begun() == ["one"]
        with hold_lease(runtime.engine, "two"):
            assert runtime.engine.services.journal.begun() == ["one"]
    assert runtime.engine.services.journal.begun() == []


def test_marks_name_the_runs_that_are_not_finished_with(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="x"), hold_lease(runtime.engine, "one", whole=True):
        raise ValueError("x")
    assert runtime.engine.services.journal.begun() == ["one"]
