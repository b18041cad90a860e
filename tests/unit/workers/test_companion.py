"""Dagster's processes end with the loop, however it ends; stand-ins take their places here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maestro_dagster.errors import ProjectError
from maestro_dagster.workers import companion, keeper
from maestro_dagster.workers.companion import Companions

# Ignores SIGTERM, and has a child that does so in a session of its own: what a server with a code server
# is at its worst.
STUBBORN = """
import os, signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
server = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("-p") + 1])))
with open("pids.new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename("pids.new", "pids")
time.sleep(120)
"""
LOOP = """
import sys, time
from pathlib import Path
from maestro_dagster.workers import companion
from maestro_dagster.workers.companion import Companions
companion._SERVER = "stand_in"
root = Path(sys.argv[1])
Companions(root / "home" / "dagster", root, root / "log", print).start_server(int(sys.argv[2]))
time.sleep(120)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(companion, "_SERVER", "stand_in")
    (tmp_path / "home" / "dagster").mkdir(parents=True)
    (tmp_path / "stand_in.py").write_text(STUBBORN)  # found there: it is the cwd
    return tmp_path


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def loop(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(root), str(port)])
    yield process
    process.kill()
    process.wait()


def wait_for(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def pids_of(root: Path) -> list[int]:
    wait_for((root / "pids").exists)
    return [int(word) for word in (root / "pids").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def make(root: Path, said: list[str] | None = None) -> Companions:
    return Companions(
        root / "home" / "dagster", root, root / "log", (said if said is not None else []).append
    )


def test_a_killed_loop_leaves_nothing_behind(root: Path, port: int, loop: subprocess.Popen[bytes]) -> None:
    pids = pids_of(root)
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    wait_for(lambda: not list((root / "home" / "run").iterdir()))
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_the_next_start_waits_for_the_older_server(
    root: Path, port: int, loop: subprocess.Popen[bytes]
) -> None:
    older = pids_of(root)[0]
    wait_for((root / "home" / "run" / "stand_in.json").exists)
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    said: list[str] = []
    companions = make(root, said)
    (root / "pids").unlink()
    companions.start_server(port)
    assert f"(pid {older})" in said[0]
    assert pids_of(root)[0] != older
    companions.stop()


def test_an_older_server_that_stays_is_named(
    root: Path, port: int, loop: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = pids_of(root)[0]
    wait_for((root / "home" / "run" / "stand_in.json").exists)
    monkeypatch.setattr(companion, "_LEAVE_SECONDS", 0.2)
    with pytest.raises(ProjectError) as caught:
        make(root).start_server(port)
    assert caught.value.error_code == "port-taken"
    assert f"older server of this project (pid {older})" in caught.value.fact
    assert f"kill {older}" in caught.value.remedy


def test_a_number_that_is_another_process_by_now_is_nobodys_server(root: Path, port: int) -> None:
    note = root / "home" / "run" / "stand_in.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"pid": os.getpid(), "start": "1", "argv": ["-p", str(port)]}))
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ProjectError) as caught:
        make(root).start_server(port)
    assert "is taken" in caught.value.fact
    assert keeper.process_start(os.getpid()) not in {"", "1"}


def test_stop_ends_all_of_it(root: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "stand_in.py").write_text(STUBBORN.replace("SIG_IGN", "SIG_DFL"))
    companions = make(root)
    companions.start_server(port)
    pids = pids_of(root)
    companions.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert companions.ended() == []


def test_one_that_ends_by_itself_is_told_once(root: Path, port: int) -> None:
    (root / "stand_in.py").write_text("raise SystemExit(3)")
    companions = make(root)
    companions.start_server(port)
    found: list[str] = []
    wait_for(lambda: found.extend(companions.ended()) or found)  # type: ignore[func-returns-value]
    assert found == ["stand_in"]
    assert companions.ended() == []
