"""The lake on an object store: a real S3 server on loopback."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day, read_usage
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.report import sum_known
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


def ended(_: str) -> bool:
    return True


def write(spool: Spool, run_id: str, *events: UsageEvent) -> None:
    with spool.open_run(run_id) as writer:
        writer.append(events)


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"{s3_bucket}/lake"


def test_a_day_is_published_read_and_rebuilt(spool: Spool, url: str) -> None:
    lake = open_lake(url)
    assert lake.usage.days() == ()
    write(spool, "run-1", *(make_event(cost_nano=number) for number in range(5)))
    assert compact_day(spool, lake, DAY, ended).sum_nano == 10
    write(spool, "run-2", make_event("run-2", cost_nano=100))
    result = compact_day(spool, lake, DAY, ended)
    assert (result.rows, result.sum_nano, result.balanced) == (6, 110, True)
    other = open_lake(url)  # what another process sees
    assert other.usage.days() == (DAY,)
    assert other.usage.verify_day(DAY).file == result.file
    assert other.usage.files() == (f"{url}/usage_daily/day={DAY}/{result.file}",)
    assert [name for name in other.usage.folder(DAY).names() if name.endswith(".parquet")] == [result.file]
    assert sum_known(read_usage(spool, other)) == (110, 0)
    assert [e.cost_nano for e in read_usage(spool, other, run_id="run-2")] == [100]
    assert spool.files() == ()
    other.usage.remove_day(DAY)
    assert other.usage.days() == ()


def test_damage_is_found(spool: Spool, url: str) -> None:
    lake = open_lake(url)
    write(spool, "run-1", make_event(cost_nano=1))
    file = compact_day(spool, lake, DAY, ended).file
    lake.usage.folder(DAY).put(file, b"PAR1")
    with pytest.raises(CostError) as caught:
        lake.usage.verify_day(DAY)
    assert caught.value.error_code == "lake-damaged"
    with pytest.raises(CostError):
        lake.usage.read_day(DAY)


def test_two_writers_of_one_day_publish_everything_once(spool: Spool, url: str) -> None:
    expected = 0
    for number in range(12):
        write(spool, f"run-{number}", make_event(f"run-{number}", cost_nano=10**number))
        expected += 10**number
    failed: list[BaseException] = []

    def compact() -> None:
        try:
            compact_day(spool, open_lake(url), DAY, ended)
        except CostError as error:
            failed.append(error)

    threads = [threading.Thread(target=compact) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert open_lake(url).usage.verify_day(DAY).sum_nano == expected
    assert spool.files() == ()


def test_a_writer_that_lost_the_day_overwrites_nothing(spool: Spool, url: str) -> None:
    write(spool, "run-1", make_event(cost_nano=1))
    slow, quick = open_lake(url), open_lake(url)
    compact_day(spool, slow, DAY, ended)
    with slow.usage.lock_day(DAY):
        mine = slow.usage.read_day(DAY)
        lease, _ = slow.usage._held[DAY]
        assert lease is not None
        lease._stop.set()
        folder = slow.usage.folder(DAY).child("lease")
        folder.put(folder.names()[-1], b'{"owner": "", "until": 0}')  # its term is over
        write(spool, "run-2", make_event("run-2", cost_nano=100))
        compact_day(spool, quick, DAY, ended)
        with pytest.raises(CostError) as caught:
            slow.usage.write_day(DAY, mine)
        assert caught.value.error_code == "lease-lost"
        slow.usage._held[DAY] = (None, slow.usage._held[DAY][1])  # even if nobody asked the lease
        with pytest.raises(CostError) as caught:
            slow.usage.write_day(DAY, mine)
        assert caught.value.error_code == "lease-lost"
    assert quick.usage.verify_day(DAY).sum_nano == 101


_COMPACTOR = """
import sys
from pathlib import Path
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.lake import open_lake
import maestro_dagster.costs.frame, polars, pyarrow.parquet
lake = open_lake(sys.argv[2])
lake.usage.days()
print("ready", flush=True)
while True:
    compact_day(Path(sys.argv[1]), lake, sys.argv[3], lambda run: True)
"""


@pytest.mark.slow
def test_a_compactor_killed_on_an_object_store_loses_and_repeats_nothing(spool: Spool, url: str) -> None:
    for round_ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", _COMPACTOR, str(spool.folder), url, DAY], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(5):
            write(spool, f"run-{round_}-{number}", make_event(f"run-{round_}-{number}", cost_nano=7))
        try:
            process.wait(timeout=0.15)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        lease = open_lake(url).usage.folder(DAY).child("lease")
        for name in lease.names():  # nobody waits a minute for the dead in a test
            lease.put(name, b'{"owner": "", "until": 0}')
    lake = open_lake(url)
    assert sum_known(read_usage(spool, lake)) == (70, 0)
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, result.balanced) == (70, True)
