"""The processes beside the loop: the server, with webhooks and the Dagster UI, and Dagster's daemon.

Each has a keeper (`keeper.py`), which ends it when the loop is gone, also when it was killed.
"""

from __future__ import annotations

import errno
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
_SERVER = "maestro_dagster.api"
_STOP_SECONDS = keeper.ASKED_GRACE + 3
_LEAVE_SECONDS = (
    keeper.ORPHAN_GRACE + 5
)  # that the server of a loop that was killed gets to give its port back
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

    def start_server(self, port: int, host: str = "127.0.0.1", *, ui: bool = True) -> None:
        """Raises ProjectError `port-taken`."""
        self._wait_for_older(port)
        _check_port(host, port)
        workspace = ("-w", str(self._write_workspace())) if ui else ()
        self._start(_SERVER, "-h", host, "-p", str(port), *workspace)
        self._say(f"webhooks and metrics are served on {_url(host, port)}")
        if ui:
            self._say(f"the Dagster UI comes up on {_url(host, port)}/dagster")

    def start_daemon(self) -> None:
        self._start("dagster._daemon", "run", "-w", str(self._write_workspace()))

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

    def _write_workspace(self) -> Path:
        """Dagster's file that names the code location of the project."""
        workspace = self._home / "workspace.yaml"
        folder = "'" + str(self._root).replace("'", "''") + "'"
        self._home.mkdir(parents=True, exist_ok=True)
        workspace.write_text(_WORKSPACE.format(name=LOCATION_NAME, folder=folder), encoding="utf-8")
        return workspace

    def _start(self, module: str, *arguments: str) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        note = self._note(module)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", module, *arguments]
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
        """A loop that was killed may have left a server that is just ending. Raises `port-taken`."""
        pid = self._older(port)
        if pid is None:
            return
        self._say(f"waiting for the older server of this project (pid {pid}) to end")
        end = time.monotonic() + _LEAVE_SECONDS
        while self._older(port) == pid:
            if time.monotonic() > end:
                raise ProjectError(
                    f"the port {port} is held by an older server of this project (pid {pid})",
                    place=f"127.0.0.1:{port}",
                    remedy=f"end it with `kill {pid}`, then start again; or choose another with --port",
                    code="port-taken",
                )
            time.sleep(0.1)

    def _older(self, port: int) -> int | None:
        """The process that an earlier loop left with this port; this loop has started none yet."""
        try:
            note = json.loads(self._note(_SERVER).read_text(encoding="utf-8"))
            pid, start, argv = int(note["pid"]), note["start"], note["argv"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        alive = start and keeper.process_start(pid) == start  # else the number is another process's by now
        return pid if alive and str(port) in argv else None

    def _note(self, module: str) -> Path:
        return self._home.parent / RUN_FOLDER / f"{module}.json"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_port(host: str, port: int) -> None:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ProjectError(
                f"the port {port} is taken"
                if error.errno == errno.EADDRINUSE
                else f"the server cannot listen on {host}: {error.strerror or error}",
                place=f"{host}:{port}",
                remedy="choose another with --port or --host, or start without the server: --no-ui",
                code="port-taken",
            ) from error
