"""Pushes become runs: each once, whatever happens to the loop, and no branch sees another's artifacts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.workers.instance import open_instance

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
PUSHES = 1000 if SOAK else 100
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 240)]


class Repository:
    """A bare repository with our hook, and a working copy."""

    def __init__(self, folder: Path, inbox: Path) -> None:
        self.bare = folder / "lib.git"
        self.work = folder / "lib"
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare), where=folder)
        self._git("init", "--quiet", "--initial-branch=main", str(self.work), where=folder)
        self._git("remote", "add", "origin", str(self.bare))
        install_hook(self.bare, inbox)

    def commit(self, text: str) -> None:
        (self.work / "file").write_text(text)
        self._git("add", "file")
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "gc.auto=0"]
        self._git(*identity, "commit", "--quiet", "--message", text)

    def push(self, *refs: str) -> None:
        self._git("push", "--quiet", "--force", "origin", *refs)

    def _git(self, *arguments: str, where: Path | None = None) -> None:
        subprocess.run(["git", *arguments], cwd=where or self.work, check=True, capture_output=True)


def make_flow(name: str, witness: Path) -> dict[str, Any]:
    def task(step: str, *needs: str) -> dict[str, Any]:
        config = {"file": str(witness), "seconds": 0.05}
        return {"id": step, "uses": "pkg:test/witness@1.0.0", "with": config, "needs": list(needs)}

    tasks = [task("one"), task("two", "one"), task("three", "two")]
    return {"name": name, "version": "1.0.0", "on": [{"event": "push"}], "tasks": tasks}


def test_every_push_becomes_one_run_while_the_loop_comes_and_goes(yard: Any, tmp_path: Path) -> None:
    yard.environment["MAESTRO_MAX_CONCURRENT_RUNS"] = "0"
    yard.write_flow(make_flow("counted", tmp_path / "witness"))
    repository = Repository(tmp_path, yard.project.inbox)
    stops = {PUSHES * part // 6 for part in range(1, 6)}
    yard.start()
    for number in range(PUSHES):
        if number in stops:
            # By turns in peace and by force, in the middle of pushes; some pushes find no loop at all.
            yard.stop(signal.SIGTERM if number % 2 else signal.SIGKILL)
        repository.commit(f"commit {number}")
        repository.push("HEAD:refs/heads/main" if number % 10 == 0 else f"HEAD:refs/heads/topic-{number}")
        if number - 3 in stops:
            yard.start()
    journal = yard.engine.services.journal

    def requested() -> int:
        return len(journal.statuses("requested"))

    yard.wait_for(lambda: requested() >= PUSHES, 120, f"{PUSHES} requests, there are {requested()}")
    yard.stop()
    runs = journal.runs(PUSHES * 2)
    assert len(runs) == PUSHES
    assert len({run.git["event_id"] for run in runs}) == PUSHES
    assert len({run.git["sha"] for run in runs}) == PUSHES
    branches = Counter(run.git["branch"] for run in runs)
    assert branches.pop("main") == PUSHES // 10
    assert set(branches.values()) == {1}
    assert {run.status for run in runs} == {"requested"}


def test_three_branches_pushed_together_never_mix_artifacts(yard: Any, tmp_path: Path) -> None:
    yard.environment["MAESTRO_MAX_CONCURRENT_RUNS"] = "3"
    yard.write_flow(make_flow("branchy", tmp_path / "witness"))
    repository = Repository(tmp_path, yard.project.inbox)
    yard.start()
    branches = ("red", "green", "blue")
    for round_ in range(2):
        for branch in branches:
            repository.commit(f"{branch} {round_}")
            repository._git("branch", "--force", branch)
        repository.push(*branches)
        journal = yard.engine.services.journal
        yard.wait_for(lambda: len(journal.runs(50)) == 3 * (round_ + 1), 60, "runs")  # noqa: B023
    views = [yard.wait_closed(run.run_id) for run in journal.runs(50)]
    assert {view.status for view in views} == {"succeeded"}
    store = yard.engine.services.store
    for view in views:
        for step in view.steps:
            said = json.loads(store.read(step.artifact.digest))
            assert (said["run"], said["branch"]) == (view.run_id, view.git["branch"])
    yard.wait_for(lambda: not yard.engine.services.journal.begun(), 20, "the end of the work on them")
    with open_instance(yard.project.home, yard.project.settings.database) as instance:
        keys = set(instance.get_dynamic_partitions("maestro/branchy"))
        assert keys == {f"lib@refs/heads/{branch}" for branch in branches}
        for step in ("one", "two", "three", "evidence"):
            for branch in branches:
                filters = dg.AssetRecordsFilter(
                    dg.AssetKey(["branchy", step]), asset_partitions=[f"lib@refs/heads/{branch}"]
                )
                records = instance.fetch_materializations(filters, limit=100).records
                found = {record.asset_materialization.tags["maestro/run_id"] for record in records}
                assert len(records) == 2
                assert found == {view.run_id for view in views if view.git["branch"] == branch}
