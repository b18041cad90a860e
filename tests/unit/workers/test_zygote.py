from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maestro_dagster.workers.zygote import EXIT_ERROR, ChildEvent, Job, Zygote

TOKEN = "ghp_" + "a" * 36


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # not by print: pytest holds sys.stdout, also in a fork


def perform(job: Job) -> int:
    if job.id == "raise":
        raise ValueError("as asked")
    if job.id == "tell":
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as above
        raise ValueError(f"it was {TOKEN}")
    if job.id == "sleep":
        time.sleep(30)
    say(f"did {job.id} in {os.getpgid(0) == os.getpid()}")
    return int(job.id) if job.id.isdigit() else 0


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    made = Zygote.start(perform, lambda: say("preloaded"), tmp_path / "log")
    yield made
    made.stop()


def collect(zygote: Zygote, count: int) -> list[ChildEvent]:
    found: list[ChildEvent] = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        select.select([zygote], [], [], 0.2)
        found += zygote.events()
    return found


def test_each_job_has_a_process_whose_end_is_told(zygote: Zygote, tmp_path: Path) -> None:
    assert [event.event for event in collect(zygote, 1)] == ["ready"]
    for name in ("0", "3", "raise"):
        zygote.submit(Job("maestro", name))
    events = collect(zygote, 6)
    pids = {event.job.id: event.pid for event in events if event.event == "started" and event.job}
    codes = {event.job.id: event.code for event in events if event.event == "ended" and event.job}
    assert codes == {"0": 0, "3": 3, "raise": EXIT_ERROR}
    assert len(set(pids.values())) == 3
    log = (tmp_path / "log").read_text()
    assert log.startswith("preloaded\n")
    assert "did 3 in True" in log


def test_an_error_that_nobody_caught_is_logged_without_secrets(zygote: Zygote, tmp_path: Path) -> None:
    zygote.submit(Job("maestro", "tell"))
    collect(zygote, 3)
    log = (tmp_path / "log").read_text()
    assert "ValueError: it was ***" in log
    assert TOKEN not in log


def test_a_job_can_be_ended_by_a_signal(zygote: Zygote) -> None:
    zygote.submit(Job("maestro", "sleep"))
    started = collect(zygote, 2)[-1]
    zygote.kill(started.pid, signal.SIGTERM)
    assert [(event.event, event.code) for event in collect(zygote, 1)] == [("ended", -signal.SIGTERM)]


def test_only_its_own_children_are_ever_signalled(zygote: Zygote) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        zygote.kill(stranger.pid, signal.SIGKILL)
        zygote.submit(Job("maestro", "0"))
        collect(zygote, 3)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_parent_hears_that_the_server_died(zygote: Zygote) -> None:
    collect(zygote, 1)
    os.kill(zygote.pid, signal.SIGKILL)
    assert [event.event for event in collect(zygote, 1)] == ["dead"]


def test_the_loops_lock_ends_with_the_loop_while_its_children_live(tmp_path: Path) -> None:
    from maestro_dagster.workers.guard import LoopGuard, is_loop_running

    with LoopGuard(tmp_path) as guard:
        made = Zygote.start(perform, lambda: None, tmp_path / "log", guard.descriptors())
        made.submit(Job("maestro", "sleep"))
        assert [event.event for event in collect(made, 2)] == ["ready", "started"]
    try:
        assert not is_loop_running(tmp_path)
    finally:
        made.stop()
