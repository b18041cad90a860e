"""Dagster's own processes beside the loop: the webserver, on loopback, and the daemon."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from maestro_dagster.errors import ProjectError

LOCATION_NAME = "maestro"
_STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
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
        _check_port(port)
        self._start("dagster_webserver", "-h", "127.0.0.1", "-p", str(port))
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
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self._home),
            "MAESTRO_PROJECT": str(self._root),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }
        with self._log.open("ab") as log:
            self._processes[module] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, "-w", str(workspace)],
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the loop, which ends them in its own time
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the loop has no threads yet
            )


def _die_with_parent() -> None:
    """A loop that was killed must not leave a webserver behind that holds the port (see prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
