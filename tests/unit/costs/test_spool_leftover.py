"""Spool files that have nothing to publish: their writer died before its first line was whole."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day, prune_spool
from maestro_dagster.costs.duck import read_spool
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.line import encode_event
from maestro_dagster.costs.spool import Spool, SpoolWriter
from maestro_dagster.errors import CostError

EMPTY = {
    "no byte": b"",
    "a torn line": encode_event(make_event(cost_nano=5))[:-9],
    "a torn line that another writer ended": encode_event(make_event(cost_nano=5))[:-9] + b"\n",
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def leave(spool: Spool, run_id: str, data: bytes) -> Path:
    with spool.open_run(run_id) as writer:
        writer.path.write_bytes(data)
    return writer.path


@pytest.mark.parametrize("data", EMPTY.values(), ids=EMPTY)
def test_a_file_without_an_event_goes_when_its_run_has_ended(spool: Spool, lake: Lake, data: bytes) -> None:
    path = leave(spool, "dead", data)
    with spool.open_run("run-1") as writer:
        writer.append([make_event(cost_nano=1)])
    assert compact_day(spool, lake, DAY, lambda run: run != "dead").removed == (writer.path.name,)
    table = read_spool(spool)
    assert table is None or table.num_rows == 0
    result = compact_day(spool, lake, DAY, lambda _: True)
    assert (result.removed, result.sum_nano) == ((path.name,), 1)
    leave(spool, "dead", data)
    assert len(prune_spool(spool, lake, lambda _: True)) == 1
    assert spool.files() == ()


@pytest.mark.parametrize("data", EMPTY.values(), ids=EMPTY)
def test_a_file_without_an_event_stays_while_somebody_writes_it(
    spool: Spool, lake: Lake, data: bytes
) -> None:
    # Its run is said to have ended: a file that is held is not believed to be dead all the same.
    with SpoolWriter(leave(spool, "run-1", data)) as writer:
        assert compact_day(spool, lake, DAY, lambda _: True).removed == ()
        assert prune_spool(spool, lake, lambda _: True) == ()
        writer.append([make_event(cost_nano=3)])
    result = compact_day(spool, lake, DAY, lambda _: True)
    assert (result.sum_nano, len(result.removed)) == (3, 1)


def test_a_file_that_a_compactor_removes_while_it_is_opened_is_begun_anew(
    spool: Spool, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = fcntl.flock, []

    def late(file: int, how: int) -> None:  # the compactor comes between opening and locking
        if not taken:
            taken.append(file)
            assert spool.remove(str(next(path for _, path in spool.files())), 0)
        lock(file, how)

    # `remove` locks as well, by then through the real function.
    monkeypatch.setattr("maestro_dagster.costs.spool.fcntl.flock", late)
    with spool.open_run("run-1") as writer:
        monkeypatch.undo()
        writer.append([make_event(cost_nano=3)])
    assert taken
    assert compact_day(spool, lake, DAY, lambda _: True).sum_nano == 3


def test_a_writer_waits_for_a_compactor_that_holds_its_file_and_not_for_a_writer(spool: Spool) -> None:
    path = leave(spool, "run-1", b"")
    held = os.open(path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.01, os.close, [held]).start()
    with SpoolWriter(path) as writer:
        writer.append([make_event(cost_nano=1)])
        with pytest.raises(CostError) as caught:
            SpoolWriter(path)
        assert caught.value.error_code == "spool-write"
    assert len(spool.read_run("run-1")) == 1
