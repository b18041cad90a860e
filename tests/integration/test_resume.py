"""Workers and loops are killed at random moments; every run still ends well, and repeats nothing."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.events.hook import install_hook
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.scaffold import shipped_project
from maestro_dagster.workers.instance import open_instance

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
KILLS = 50 if SOAK else 5
Snapshot = tuple[set[str], Counter[str]]  # acknowledged steps, lines of the witness
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if SOAK else 400)]


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


def kill_workers(yard: Any) -> bool:
    """Whether there was one to kill."""
    found = yard.workers()
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def check_end(yard: Any, run_id: str, witness: Path, snapshots: list[Snapshot], unchosen: set[str]) -> None:
    view = yard.wait_closed(run_id, 120)
    assert view.status == "succeeded", (view.decision, view.error, yard.log.read_text())
    counts = read_witness(witness, run_id)
    for done, before in snapshots:
        assert {step: counts[step] for step in done} == {step: before[step] for step in done}
    statuses = {step.step: step.status for step in view.steps}
    assert {step for step, status in statuses.items() if status == "skipped"} == unchosen
    assert {status for step, status in statuses.items() if step not in unchosen} == {"done"}
    yard.wait_for(lambda: not yard.engine.services.journal.begun(), 20, "the end of the work on it")
    with open_instance(yard.project.home, yard.project.settings.database) as instance:
        for step in view.steps:
            wanted = step.asset and step.step not in unchosen
            assert recorded(instance, view.flow, step.step, run_id) == wanted, step.step
        assert recorded(instance, view.flow, "evidence", run_id) == 1
        runs = instance.get_runs(filters=dg.RunsFilter(tags={"maestro/run_id": run_id}))
        assert all(run.is_finished for run in runs)


def test_killed_runs_end_succeeded_and_no_acknowledged_step_runs_twice(yard: Any, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    flow = make_flow(witness)
    chance = random.Random(os.environ.get("MAESTRO_SEED", "killed"))
    yard.start()
    killed = 0
    for number in range(KILLS):
        run_id = f"run-{number}"
        yard.engine.request(RunRequest(run_id=run_id, flow=flow, cause="push"))
        snapshots: list[Snapshot] = []
        for _ in range(1 + number % 2):
            yard.wait_for(lambda: yard.workers() or is_closed(yard, run_id), 20, "a worker")  # noqa: B023
            time.sleep(chance.uniform(0.0, 1.2))
            if kill_workers(yard):
                killed += 1
                snapshots.append((acknowledged(yard.engine, run_id), read_witness(witness, run_id)))
            if number % 5 == 4:  # the machine as a whole: loop and fork server too
                yard.stop(signal.SIGKILL)
                yard.start()
        check_end(yard, run_id, witness, snapshots, {"right"})
    assert killed, "no run was ever hit: the test tests nothing"
    yard.stop()


def test_killed_releases_end_succeeded_and_repeat_nothing(yard: Any, tmp_path: Path) -> None:
    """The real thing: a push, ten steps with caged tools, a signature, an index, a deployment."""
    witness = tmp_path / "witness"
    yard.environment["WITNESS_FILE"] = str(witness)
    recipe = shipped_project() / "recipes" / "python-release"
    shutil.copy(recipe / "flow.yaml", yard.project.root / "assets" / "python-release.yaml")
    lib = tmp_path / "lib"
    fixture = next(iter(sorted((recipe / "fixtures").glob("*/pyproject.toml")))).parent
    shutil.copytree(fixture, lib, ignore=shutil.ignore_patterns("__pycache__"))
    for command in (
        ["init", "-q", "--bare", str(tmp_path / "lib.git")],
        ["init", "-q", "-b", "main", str(lib)],
    ):
        subprocess.run(["git", *command], check=True)
    install_hook(tmp_path / "lib.git", yard.project.inbox)
    chance = random.Random(os.environ.get("MAESTRO_SEED", "released"))
    yard.start()
    killed = 0
    for number in range(KILLS):
        push_version(lib, tmp_path / "lib.git", f"1.0.{number}")
        runs = yard.engine.services.journal.runs
        yard.wait_for(lambda: len(runs(1000)) == number + 1, 20, "the run of the push")  # noqa: B023
        run_id = runs(1)[0].run_id
        snapshots: list[Snapshot] = []
        yard.wait_for(lambda: yard.workers() or is_closed(yard, run_id), 20, "a worker")  # noqa: B023
        time.sleep(chance.uniform(0.0, 4.0))
        if kill_workers(yard):
            killed += 1
            snapshots.append((acknowledged(yard.engine, run_id), read_witness(witness, run_id)))
        check_end(yard, run_id, witness, snapshots, set())
    assert killed, "no run was ever hit: the test tests nothing"
    yard.stop()


def push_version(lib: Path, bare: Path, version: str) -> None:
    """A release of the package: publishing one version twice is refused."""
    path = lib / "pyproject.toml"
    path.write_text(re.sub(r'(?m)^version = "[^"]+"', f'version = "{version}"', path.read_text(), count=1))
    git = ["git", "-C", str(lib), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["add", "-A"], ["commit", "-qm", f"feat: {version}"], ["push", "-q", str(bare), "main"]):
        subprocess.run([*git, *command], check=True, capture_output=True)


def is_closed(yard: Any, run_id: str) -> bool:
    return yard.engine.view(run_id).status not in {"requested", "running"}


def test_a_second_loop_on_the_project_is_refused_and_a_stopped_one_leaves_no_trace(yard: Any) -> None:
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
