"""The server and Dagster's daemon end with the loop, however it ends, and are started again where they die.

Stand-ins take their places here.
"""

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
from maestro_dagster.workers import companion, keeper, restart
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
    assert caught.value.remedy.endswith("serve nothing: --no-ui, and no --port")
    assert keeper.process_start(os.getpid()) not in {"", "1"}


def test_an_address_of_another_machine_is_not_a_port_that_is_taken(root: Path, port: int) -> None:
    with pytest.raises(ProjectError) as caught:
        make(root).start_server(port, "192.0.2.1")
    assert caught.value.error_code == "address-unusable"
    assert caught.value.place == f"192.0.2.1:{port}"
    assert "--host" in caught.value.remedy


def test_stop_ends_all_of_it(root: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "stand_in.py").write_text(STUBBORN.replace("SIG_IGN", "SIG_DFL"))
    companions = make(root)
    companions.start_server(port)
    pids = pids_of(root)
    companions.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert not companions.look()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(restart, "_LONGEST_PAUSE", 0.05)


def test_a_server_that_is_killed_is_started_again(root: Path, port: int) -> None:
    (root / "stand_in.py").write_text(STUBBORN.replace("SIG_IGN", "SIG_DFL"))
    said: list[str] = []
    companions = make(root, said)
    companions.start_server(port)
    first = pids_of(root)
    (root / "pids").unlink()
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: companions.look() or (root / "pids").exists())
    assert pids_of(root)[0] != first[0]
    assert not is_alive(first[1]), "what it had started is gone too"
    assert companions.lost is None
    assert said[-2:] == [
        f"the server has ended (ended by SIGKILL); it is started again in 1 s; see {root.name}/log",
        "the server is started again",
    ]
    companions.stop()


def test_a_server_whose_keeper_is_killed_makes_room(
    root: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ORPHAN_GRACE", 0.5)
    said: list[str] = []
    companions = make(root, said)
    companions.start_server(port)
    first = pids_of(root)  # it ignores that it is asked to end
    wait_for((root / "home" / "run" / "stand_in.json").exists)
    (root / "pids").unlink()
    os.kill(int(Path(f"/proc/{first[0]}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    wait_for(lambda: companions.look() or (root / "pids").exists())
    assert not is_alive(first[0])
    assert pids_of(root)[0] != first[0]
    assert "(its keeper was ended by SIGKILL)" in said[-2]
    os.kill(first[1], signal.SIGKILL)
    companions.stop()


@pytest.mark.usefixtures("quick")
def test_a_server_that_cannot_live_is_lost(root: Path, port: int) -> None:
    (root / "stand_in.py").write_text("raise SystemExit(3)")
    said: list[str] = []
    companions = make(root, said)
    companions.start_server(port)
    wait_for(companions.look)
    deaths = [line for line in said if "(exit status 3)" in line]
    assert len(deaths) == restart.MOST_DEATHS
    assert "cannot be kept alive" in said[-1]
    assert companions.lost is not None
    assert companions.lost.error_code == "server-lost"
    assert companions.lost.place == str(root / "log")
    before = len(said)
    assert companions.look()
    assert len(said) == before, "it is not tried any more"


@pytest.mark.usefixtures("quick")
def test_a_daemon_is_tried_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion, "_DAEMON", "stand_in_too")
    (root / "stand_in_too.py").write_text("raise SystemExit(3)")
    said: list[str] = []
    companions = make(root, said)
    companions.start_daemon()
    wait_for(lambda: companions.look() or len(said) > 4 * restart.MOST_DEATHS)
    assert companions.lost is None
    companions.stop()


def test_pauses_grow_until_one_has_lived() -> None:
    restarts = restart.Restarts()
    assert [restarts.pause(1.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert restarts.hopeless
    assert restarts.pause(61.0) == 1
    assert not restarts.hopeless
