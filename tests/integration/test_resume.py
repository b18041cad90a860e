"""Workers and loops are killed at random moments; every run still ends well, and repeats nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.manifest.model import Flow
from maestro_dagster.workers.instance import open_instance

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
KILLS = 50 if SOAK else 5
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 240)]


def make_flow(witness: Path) -> Flow:
    def task(step: str, *needs: str, **more: Any) -> dict[str, Any]:
        config = {"file": str(witness), "seconds": 0.04}
        return {"id": step, "uses": "pkg:test/witness@1.0.0", "with": config, "needs": needs, **more}

    branch = {
        "id": "choose",
        "uses": "pkg:control/branch@1.0.0",
        "needs": ["fetch"],
        "with": {"value": "a", "cases": [{"equals": "a", "steps": ["left"]}], "default": ["right"]},
    }
    return Flow.model_validate(
        {
            "name": "killed-often",
            "version": "1.0.0",
            "tasks": [
                task("fetch"),
                branch,
                task("left", "choose"),
                task("right", "choose"),
                task("join", "left", "right", join="any"),
                *(task(f"part-{n}", "join") for n in range(4)),
                task("last", *(f"part-{n}" for n in range(4))),
                task("own-pod", "last", resources={"pod": True}),
                task("end", "own-pod"),
            ],
        }
    )


def read_witness(path: Path, run_id: str) -> Counter[str]:
    if not path.exists():
        return Counter()
    lines = [line.split() for line in path.read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == run_id)


def acknowledged(engine: Any, run_id: str) -> set[str]:
    return {step.step for step in engine.view(run_id).steps if step.status == "done"}


def recorded(instance: dg.DagsterInstance, flow: str, step: str, run_id: str) -> int:
    records = instance.fetch_materializations(dg.AssetKey([flow, step]), limit=1000).records
    events = (record.asset_materialization for record in records)
    return sum(
        1 for event in events if event is not None and (event.tags or {}).get("maestro/run_id") == run_id
    )


def test_killed_runs_end_succeeded_and_no_acknowledged_step_runs_twice(yard: Any, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    flow = make_flow(witness)
    chance = random.Random(os.environ.get("MAESTRO_SEED", "killed"))
    yard.start()
    killed = 0
    for number in range(KILLS):
        run_id = f"run-{number}"
        yard.engine.request(RunRequest(run_id=run_id, flow=flow, cause="push"))
        snapshots: list[tuple[set[str], Counter[str]]] = []
        for _ in range(1 + number % 2):
            begun = time.monotonic()
            moment = chance.uniform(0.0, 1.6)
            while time.monotonic() - begun < 20 and not yard.workers():
                time.sleep(0.01)
            time.sleep(moment)
            if workers := yard.workers():
                for pid in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                killed += 1
                snapshots.append((acknowledged(yard.engine, run_id), read_witness(witness, run_id)))
            if number % 5 == 4:  # the machine as a whole: loop and fork server too
                yard.stop(signal.SIGKILL)
                yard.start()
        view = yard.wait_closed(run_id, 90)
        assert view.status == "succeeded", (view.decision, view.error, yard.log.read_text())
        counts = read_witness(witness, run_id)
        for done, before in snapshots:
            assert {step: counts[step] for step in done} == {step: before[step] for step in done}
        statuses = {step.step: step.status for step in view.steps}
        assert statuses.pop("right") == "skipped"
        assert set(statuses.values()) == {"done"}
        begun = yard.project.home / "run" / "begun"
        yard.wait_for(lambda: not list(begun.iterdir()), 20, "the end of the work on it")  # noqa: B023
        with open_instance(yard.project.home) as instance:
            for step in statuses:
                assert recorded(instance, flow.name, step, run_id) == (step != "choose"), step
            assert recorded(instance, flow.name, "right", run_id) == 0
            assert recorded(instance, flow.name, "evidence", run_id) == 1
            assert recorded(instance, flow.name, "sbom", run_id) == 1
            filters = dg.RunsFilter(tags={"maestro/run_id": run_id})
            assert all(run.is_finished for run in instance.get_runs(filters=filters))
    assert killed, "no run was ever hit: the test tests nothing"
    yard.stop()


def test_a_second_loop_on_the_project_is_refused_and_a_stopped_one_leaves_no_trace(yard: Any) -> None:
    import subprocess
    import sys

    yard.start()
    command = [sys.executable, "-m", "maestro_dagster", "dev", "--no-ui", "--no-daemon"]
    second = subprocess.run(
        command,
        cwd=yard.project.root,
        env=yard.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "error[loop-running]" in second.stderr
    yard.stop()
    run = yard.project.home / "run"
    assert sorted(path.name for path in run.iterdir()) == ["loop.lock"]
