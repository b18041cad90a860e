from __future__ import annotations

import json
import multiprocessing
import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from maestro_dagster.workers.instance import open_instance
from maestro_dagster.workers.storage import PooledEventStorage


@dg.asset
def one() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"n": 1})


@dg.asset(deps=[one])
def two() -> None:
    return None


def run_once(home: Path, times: int = 1) -> None:
    with open_instance(home) as instance:
        for _ in range(times):
            assert dg.materialize([one, two], instance=instance).success


def test_all_that_stock_storage_records_is_recorded(tmp_path: Path) -> None:
    run_once(tmp_path / "ours")
    with dg.DagsterInstance.local_temp() as stock:
        dg.materialize([one, two], instance=stock)
        with open_instance(tmp_path / "ours") as ours:
            (mine,), (theirs,) = ours.get_runs(), stock.get_runs()
            assert mine.status == theirs.status
            kinds = [
                [
                    entry.dagster_event_type
                    for entry in instance.all_logs(run.run_id)
                    if entry.is_dagster_event
                ]
                for instance, run in ((ours, mine), (stock, theirs))
            ]
            assert sorted(map(str, kinds[0])) == sorted(map(str, kinds[1]))
            events = [instance.get_latest_materialization_event(two.key) for instance in (ours, stock)]
            tags = [
                set(event.asset_materialization.tags or {})
                for event in events
                if event and event.asset_materialization
            ]
            assert tags[0] == tags[1]


def test_processes_that_start_together_make_one_storage(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_once, args=(tmp_path, 2)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with open_instance(tmp_path) as instance:
        assert len(instance.get_runs()) == 6
        assert len(instance.fetch_materializations(one.key, limit=100).records) == 6


def test_an_outputs_event_is_seen_by_whoever_reads(tmp_path: Path) -> None:
    with open_instance(tmp_path) as instance:
        result = dg.materialize([one], instance=instance)
        records = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT).records
        assert len(records) == 1
        assert isinstance(instance.event_log_storage, PooledEventStorage)
        key = instance.event_log_storage.stored_event(result.run_id, one.key)
        latest = instance.fetch_materializations(one.key, limit=1).records[0]
        assert key == (latest.storage_id, latest.timestamp)


def test_another_release_of_dagster_migrates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_once(tmp_path)
    stamp = tmp_path / "dagster" / "database" / "prepared"
    stamp.write_text("1.0.0")
    run_once(tmp_path)
    assert stamp.read_text() == dg.__version__
    with open_instance(tmp_path) as instance:
        assert len(instance.get_runs()) == 2


def test_a_commit_is_seen_by_the_pages_that_watch_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dagster" / "database" / "events" / "event_log.db"
    with open_instance(tmp_path) as instance:
        before = path.stat().st_mtime_ns
        instance.report_runless_asset_event(dg.AssetMaterialization(["a"]))
        assert path.stat().st_mtime_ns > before
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert json.dumps([row[0] for row in sqlite3.connect(path).execute("PRAGMA page_size")]) == "[16384]"
