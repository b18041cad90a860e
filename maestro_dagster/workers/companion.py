"""The processes beside the loop: the server, with webhooks and the Dagster UI, and Dagster's daemon.

Each has a keeper (`keeper.py`), which ends it when the loop is gone, also when it was killed. One that dies
is started again (`restart.py`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from maestro_dagster.errors import ProjectError
from maestro_dagster.workers import keeper
from maestro_dagster.workers.guard import RUN_FOLDER
from maestro_dagster.workers.restart import Restarts, describe_end

LOCATION_NAME = "maestro"
_SERVER = "maestro_dagster.api"
_DAEMON = "dagster._daemon"
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


@dataclass
class _Companion:
    """One of them. `process` is its keeper; None: it ended, and is due again at `due`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    restarts: Restarts = field(default_factory=Restarts)


class Companions:
    """Started together, ended together. `home` is Dagster's home, `root` the project's folder.

    `lost` is the error of a server that cannot be kept alive.
    """

    def __init__(self, home: Path, root: Path, log: Path, say: Callable[[str], None]) -> None:
        self._home = home
        self._root = root
        self._log = log
        self._say = say
        self._companions: list[_Companion] = []
        self.lost: ProjectError | None = None

    def start_server(self, port: int, host: str = "127.0.0.1", *, ui: bool = True) -> None:
        """Raises ProjectError `port-taken`."""
        self._wait_for_older(port)
        _check_port(host, port)
        workspace = ("-w", str(self._write_workspace())) if ui else ()
        self._add(_Companion("the server", _SERVER, ("-h", host, "-p", str(port), *workspace)))
        self._say(f"webhooks and metrics are served on {_url(host, port)}")
        if ui:
            self._say(f"the Dagster UI comes up on {_url(host, port)}/dagster")

    def start_daemon(self) -> None:
        workspace = str(self._write_workspace())
        self._add(_Companion("Dagster's daemon", _DAEMON, ("run", "-w", workspace)))

    def look(self) -> bool:
        """Starts what has ended again, when its pause is over. True: the server is `lost`.

        Only the server can be: webhooks and runs need no daemon, which is tried for ever.
        """
        for one in self._companions:
            if one.process is not None and (status := one.process.poll()) is not None:
                self._bury(one, describe_end(status))
            if one.process is None and self.lost is None and time.monotonic() >= one.due:
                self._start_again(one)
        return self.lost is not None

    def stop(self) -> None:
        processes = [one.process for one in self._companions if one.process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._companions.clear()

    def _add(self, one: _Companion) -> None:
        self._start(one)
        self._companions.append(one)

    def _bury(self, one: _Companion, how: str) -> None:
        now = time.monotonic()
        pause = one.restarts.pause(now - one.started)
        one.process, one.due = None, now + pause
        log = f"{self._log.parent.name}/{self._log.name}"
        if one.restarts.hopeless and one.module == _SERVER:
            self.lost = ProjectError(
                f"{one.name} has ended {one.restarts.deaths} times in a row, now with: {how}",
                place=str(self._log),
                remedy="the reason is at the end of that file; correct it, then start again",
                code="server-lost",
            )
            self._say(f"{one.name} has ended ({how}) and cannot be kept alive; see {log}")
            return
        self._say(f"{one.name} has ended ({how}); it is started again in {pause:.0f} s; see {log}")

    def _start_again(self, one: _Companion) -> None:
        left = self._left(one.module)
        if left is not None:  # its keeper was killed, and it has been asked to end
            if time.monotonic() >= one.due + keeper.ORPHAN_GRACE:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left[0], signal.SIGKILL)
            return
        try:
            self._start(one)
        except OSError as error:
            one.started = time.monotonic()
            self._bury(one, f"not started: {error.strerror or error}")
            return
        self._say(f"{one.name} is started again")

    def _write_workspace(self) -> Path:
        """Dagster's file that names the code location of the project."""
        workspace = self._home / "workspace.yaml"
        folder = "'" + str(self._root).replace("'", "''") + "'"
        self._home.mkdir(parents=True, exist_ok=True)
        workspace.write_text(_WORKSPACE.format(name=LOCATION_NAME, folder=folder), encoding="utf-8")
        return workspace

    def _start(self, one: _Companion) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        note = self._note(one.module)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", one.module, *one.arguments]
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self._home),
            "MAESTRO_PROJECT": str(self._root),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }
        with self._log.open("ab") as log:
            one.process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(note), *command],
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the loop, which ends them in its own time
            )
        one.started = time.monotonic()

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
        left = self._left(_SERVER)
        return left[0] if left is not None and str(port) in left[1] else None

    def _left(self, module: str) -> tuple[int, list[str]] | None:
        """(pid, command) of a process that its keeper has left alive."""
        try:
            note = json.loads(self._note(module).read_text(encoding="utf-8"))
            pid, start, argv = int(note["pid"]), note["start"], list(note["argv"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        alive = start and keeper.process_start(pid) == start  # else the number is another process's by now
        return (pid, argv) if alive else None

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
            taken = error.errno == errno.EADDRINUSE
            raise ProjectError(
                f"the port {port} is taken"
                if taken
                else f"the server cannot listen there: {error.strerror or error}",
                place=f"{host}:{port}",
                remedy="choose another with --port or --host, or serve nothing: --no-ui, and no --port"
                if taken
                else "choose an address of this machine with --host, and a port that this user may have",
                code="port-taken" if taken else "address-unusable",
            ) from error
