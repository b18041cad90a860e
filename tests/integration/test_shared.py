"""Two loops, each with a home of its own as on two machines, work on one database and one artifact store."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.root import find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.workers.instance import open_instance

RUNS = 200 if os.environ.get("MAESTRO_SOAK") == "1" else 20
STEPS = ("one", "two", "three")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if RUNS > 20 else 300)]


@pytest.fixture
def pair(
    tmp_path: Path, new_database: Callable[[], str], make_yard: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Any]]:
    root = tmp_path / "shop"
    init_project(root)
    for path in (root / "assets").glob("*.yaml"):
        path.unlink()
    text = (root / "pyproject.toml").read_text()
    more = {
        "database": new_database(),
        "artifact_store": "artifacts",
        "evidence": "evidence",
        "max_concurrent_runs": 3,
    }
    lines = "".join(f"{name} = {value!r}\n" for name, value in more.items())
    (root / "pyproject.toml").write_text(text.replace("[tool.maestro]\n", f"[tool.maestro]\n{lines}"))
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(make_yard(find_project(root)))
        shutil.copytree(root / ".maestro" / "keys", tmp_path / "home" / "keys")
        monkeypatch.setenv("MAESTRO_HOME", str(tmp_path / "home"))
        other = stack.enter_context(make_yard(find_project(root)))
        other.environment["MAESTRO_HOME"] = str(tmp_path / "home")
        yield one, other


def test_two_loops_share_runs_and_one_is_killed(pair: tuple[Any, Any], tmp_path: Path) -> None:
    one, other = pair
    witness = tmp_path / "witness"
    flow = Flow.model_validate(
        {
            "name": "shared",
            "version": "1.0.0",
            "tasks": [
                {"id": step, "uses": "pkg:test/witness@1.0.0", "needs": list(STEPS[:number][-1:]),
                 "with": {"file": str(witness), "seconds": 0.1}}
                for number, step in enumerate(STEPS)
            ],
        }
    )  # fmt: skip
    runs = [f"r{number:03}" for number in range(RUNS)]
    one.start()
    other.start()
    one.engine.request_many([RunRequest(run_id=run_id, flow=flow, cause="push") for run_id in runs])
    journal = one.engine.services.journal

    def closed() -> int:
        return sum(row.evidence_path is not None for row in journal.runs(RUNS))

    one.wait_for(lambda: closed() >= RUNS // 4 and one.workers(), 120, "the first runs")
    workers = one.workers()
    one.stop(signal.SIGKILL)
    for pid in workers:  # a machine that is switched off
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    acknowledged = {(run_id, row.step) for run_id in runs for row in journal.steps(run_id) if row.ended}
    before = read_witness(witness)
    one.wait_for(lambda: closed() == RUNS and not journal.begun(), RUNS * 6 + 60, "the end of all runs")

    assert {row.status for row in journal.runs(RUNS)} == {"succeeded"}
    after = read_witness(witness)
    assert set(after) == {(run_id, step) for run_id in runs for step in STEPS}
    assert {each: after[each] for each in acknowledged} == dict.fromkeys(acknowledged, 1), (
        "once, and for good"
    )
    again = {each for each, count in after.items() if count > 1}
    assert len(again) <= len(workers), "only what a worker was killed in may run once more"
    assert before.keys() >= acknowledged
    said = [other.log.read_text(), one.log.read_text()]
    assert all(" starts" in each for each in said), "both had their share"
    keys = [other.engine.services.signer.public_pem]
    with open_instance(other.project.home, other.project.settings.database) as instance:
        for row in journal.runs(RUNS):
            assert verify_bundle(Path(row.evidence_path), keys).ok
            found = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=dg.AssetKey(["shared", "evidence"])), limit=2 * RUNS
            ).records
        tags = Counter(record.asset_materialization.tags["maestro/run_id"] for record in found)
    assert tags == Counter(runs), "Dagster knows the evidence of each run, once"


def read_witness(path: Path) -> Counter[tuple[str, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter((line.split()[0], line.split()[1]) for line in lines)
