from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from maestro_dagster.costs.folder import RemoteFolder, open_folder
from maestro_dagster.costs.lease import Lease
from maestro_dagster.errors import CostError


@pytest.fixture
def folder() -> Iterator[RemoteFolder]:
    found = open_folder(f"memory://{uuid.uuid4().hex}/day=2026-03-01")
    assert isinstance(found, RemoteFolder)
    yield found
    found.files.rm(found.files._strip_protocol(found.place("")), recursive=True)


def test_a_day_has_one_writer_and_the_next_one_waits(folder: RemoteFolder) -> None:
    first, second = Lease(folder), Lease(folder, wait=0.0)
    first.take()
    with pytest.raises(CostError) as caught:
        second.take()
    assert caught.value.error_code == "day-locked"
    first.check()
    first.release()
    second.take()
    second.check()
    with pytest.raises(CostError):
        first.check()
    second.release()


def test_a_writer_that_shows_no_life_loses_the_day_and_finds_out(folder: RemoteFolder) -> None:
    dead = Lease(folder, seconds=0.3)
    dead.take()
    dead._stop.set()  # as if its process had been stopped
    heir = Lease(folder, wait=10.0)
    heir.take()
    with pytest.raises(CostError) as caught:
        dead.check()
    assert caught.value.error_code == "lease-lost"
    dead.release()  # takes nothing away from who has the day now
    heir.check()
    heir.release()


def test_a_writer_that_lives_keeps_the_day_beyond_its_term(folder: RemoteFolder) -> None:
    long = Lease(folder, seconds=0.6)
    long.take()
    time.sleep(1.5)
    long.check()
    with pytest.raises(CostError):
        Lease(folder, wait=0.0).take()
    long.release()


def test_many_writers_take_turns(folder: RemoteFolder) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        lease = Lease(folder, wait=30.0)
        lease.take()
        inside.append(number)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(number)
        lease.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert len(folder.child("lease").names()) <= 2  # no heap of old leases


def test_an_unreadable_lease_is_nobodys(folder: RemoteFolder) -> None:
    folder.child("lease").put("00000004.json", b"{")
    lease = Lease(folder, wait=0.0)
    lease.take()
    assert folder.child("lease").names()[-1] == "00000005.json"
    lease.release()
