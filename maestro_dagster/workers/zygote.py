"""A fork server: one process that has imported what a run needs, and forks a child for each run.

Importing Dagster takes over a second; a fork takes milliseconds. The server stays single-threaded and
opens nothing (no database, no gRPC channel), because a fork would copy such things half alive.

The parent and the server speak JSON lines over a socket pair:

    parent -> server   {"op": "run", "kind": "maestro", "id": "..."}
                       {"op": "kill", "pid": 1, "signal": 15}
    server -> parent   {"event": "ready"}
                       {"event": "started", "kind": ..., "id": ..., "pid": 1}
                       {"event": "ended", "kind": ..., "id": ..., "pid": 1, "code": 0}
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.errors import MaestroError
from maestro_dagster.telemetry.redaction import hide_printed

_FOR_CHILDREN = (signal.SIGINT, signal.SIGTERM)
EXIT_ERROR = 70  # of a child that ended with an error it could not record (sysexits: EX_SOFTWARE)


@dataclass(frozen=True, slots=True)
class Job:
    """What a child does, by its kind: `maestro` runs a Maestro run by its id, `close` gives up on one,
    `dagster` runs a Dagster run that the UI launched.
    """

    kind: str
    id: str


PREPARE = Job("prepare", "storage")  # the first child: makes what all others only open


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """`code` is the exit status of an ended child; negative for a signal."""

    event: str
    job: Job | None = None
    pid: int = 0
    code: int = 0


class Zygote:
    """The parent's end. Start it before threads and databases are opened."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._socket = sock
        self.pid = pid
        self._buffer = b""

    @classmethod
    def start(
        cls,
        perform: Callable[[Job], int],
        preload: Callable[[], None],
        log: Path,
        leave: Sequence[int] = (),
    ) -> Zygote:
        """Forks the server. `preload` runs in it once, `perform` in every child; output goes to `log`.

        `leave` are descriptors that the server must not keep: a lock that it inherits would be held for
        as long as any of its children lives.
        """
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = EXIT_ERROR
            try:
                ours.close()
                for descriptor in leave:
                    os.close(descriptor)
                _redirect_output(log)
                _Server(theirs, perform).serve(preload)
                code = 0
            except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
                _print_error()
            finally:
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    def fileno(self) -> int:
        return self._socket.fileno()

    def submit(self, job: Job) -> None:
        """Raises BrokenPipeError or ConnectionError when the server is dead."""
        self._send({"op": "run", "kind": job.kind, "id": job.id})

    def kill(self, pid: int, number: int) -> None:
        self._send({"op": "kill", "pid": pid, "signal": number})

    def events(self) -> Iterator[ChildEvent]:
        """What happened since the last call; never waits. A last `dead` event when the server is gone."""
        closed = False
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                closed = True
                break
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            form = json.loads(line)
            job = Job(form["kind"], form["id"]) if "id" in form else None
            yield ChildEvent(form["event"], job, form.get("pid", 0), form.get("code", 0))
        if closed:
            yield ChildEvent("dead")

    def stop(self) -> None:
        """Ends the server; its children go on to their end."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _send(self, form: dict[str, Any]) -> None:
        data = json.dumps(form).encode() + b"\n"
        self._socket.setblocking(True)
        try:
            self._socket.sendall(data)
        finally:
            self._socket.setblocking(False)


class _Server:
    """The forked side."""

    def __init__(self, sock: socket.socket, perform: Callable[[Job], int]) -> None:
        self._socket = sock
        self._perform = perform
        self._children: dict[int, Job] = {}
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self, preload: Callable[[], None]) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is for the parent to act on
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        preload()
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, pages that are shared with children
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._send({"event": "ready"})
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                if self._socket.fileno() in ready:
                    data = self._socket.recv(65536)
                    if not data:
                        return  # the parent is gone; children have their leases and go on
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))

    def _obey(self, form: dict[str, Any]) -> None:
        if form["op"] == "kill":
            if form["pid"] in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(form["pid"], form["signal"])
            return
        job = Job(form["kind"], form["id"])
        # A signal between the fork and the child's own handling must wait, not be ignored as here.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_CHILDREN)
        pid = os.fork()
        if pid == 0:
            os._exit(self._child(job))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_CHILDREN)
        self._children[pid] = job
        self._send({"event": "started", "kind": job.kind, "id": job.id, "pid": pid})

    def _child(self, job: Job) -> int:
        code = EXIT_ERROR
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, *_FOR_CHILDREN):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_CHILDREN)
            os.setpgid(0, 0)  # a Ctrl-C for the parent's group is not for the run
            self._socket.close()
            os.close(self._wake)
            os.close(self._woken)
            code = self._perform(job)
        except MaestroError as error:
            sys.stderr.write(hide_printed(f"{job.id}: {error}\n"))
            code = error.exit_code
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happened
            _print_error()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return code

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if job := self._children.pop(pid, None):
                code = os.waitstatus_to_exitcode(status)
                self._send({"event": "ended", "kind": job.kind, "id": job.id, "pid": pid, "code": code})

    def _send(self, form: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self._socket.sendall(json.dumps(form).encode() + b"\n")


def _print_error() -> None:
    """Whatever was raised may quote what it was about."""
    sys.stderr.write(hide_printed(traceback.format_exc()))


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    os.close(nothing)
