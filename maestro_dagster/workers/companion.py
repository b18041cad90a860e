"""Dagster's own processes beside the loop: the webserver, on loopback, and the daemon.

Each has a keeper (`keeper.py`), which ends it when the loop is gone, also when it was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from maestro_dagster.errors import ProjectError
from maestro_dagster.workers import keeper
from maestro_dagster.workers.guard import RUN_FOLDER

LOCATION_NAME = "maestro"
_WEBSERVER = "dagster_webserver"
_STOP_SECONDS = keeper.ASKED_GRACE + 3
_LEAVE_SECONDS = keeper.ORPHAN_GRACE + 5  # that the UI of a loop that was killed gets to give its port back
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: maestro_dagster.definitions
      attribute: defs
      location_name: {name}
      working_directory: {folder}
"""


class Companions:
    """Started together, ended together. `home` is Dagster's home, `root` the project's folder."""

    def __init__(self, home: Path, root: Path, log: Path, say: Callable[[str], None]) -> None:
        self._home = home
        self._root = root
        self._log = log
        self._say = say
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_webserver(self, port: int) -> None:
        """Raises ProjectError `port-taken`."""
        self._wait_for_older(port)
        _check_port(port)
        self._start(_WEBSERVER, "-h", "127.0.0.1", "-p", str(port))
        self._say(f"the Dagster UI comes up on http://127.0.0.1:{port}")

    def start_daemon(self) -> None:
        self._start("dagster._daemon", "run")

    def ended(self) -> list[str]:
        """Names of processes that ended by themselves, each told once."""
        gone = [name for name, process in self._processes.items() if process.poll() is not None]
        for name in gone:
            del self._processes[name]
        return gone

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self, module: str, *arguments: str) -> None:
        workspace = self._home / "workspace.yaml"
        folder = "'" + str(self._root).replace("'", "''") + "'"
        workspace.write_text(_WORKSPACE.format(name=LOCATION_NAME, folder=folder), encoding="utf-8")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        note = self._note(module)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", module, *arguments, "-w", str(workspace)]
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self._home),
            "MAESTRO_PROJECT": str(self._root),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }
        with self._log.open("ab") as log:
            self._processes[module] = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(note), *command],
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the loop, which ends them in its own time
            )

    def _wait_for_older(self, port: int) -> None:
        """A loop that was killed may have left a UI that is just ending. Raises `port-taken`."""
        pid = self._older(port)
        if pid is None:
            return
        self._say(f"waiting for the older UI of this project (pid {pid}) to end")
        end = time.monotonic() + _LEAVE_SECONDS
        while self._older(port) == pid:
            if time.monotonic() > end:
                raise ProjectError(
                    f"the port {port} is held by an older UI of this project (pid {pid})",
                    place=f"127.0.0.1:{port}",
                    remedy=f"end it with `kill {pid}`, then start again; or choose another with --port",
                    code="port-taken",
                )
            time.sleep(0.1)

    def _older(self, port: int) -> int | None:
        """The process that an earlier loop left with this port; this loop has started none yet."""
        try:
            note = json.loads(self._note(_WEBSERVER).read_text(encoding="utf-8"))
            pid, start, argv = int(note["pid"]), note["start"], note["argv"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        alive = start and keeper.process_start(pid) == start  # else the number is another process's by now
        return pid if alive and str(port) in argv else None

    def _note(self, module: str) -> Path:
        return self._home.parent / RUN_FOLDER / f"{module}.json"


def _check_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ProjectError(
                f"the port {port} is taken",
                place=f"127.0.0.1:{port}",
                remedy="choose another with --port, or start without the UI: --no-ui",
                code="port-taken",
            ) from error
