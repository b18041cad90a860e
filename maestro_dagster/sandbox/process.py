"""One caged command from start to burial: handshake, limits, output, and the account of what it used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maestro_dagster.errors import SandboxError
from maestro_dagster.sandbox.interface import CagedCommand, CagedResult
from maestro_dagster.sandbox.layout import CAGED_ID, interpreter

REMEDY = "allow unprivileged user namespaces on this machine, or say `isolation: none` in the flow"
NAMESPACES = ("--user", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup")
START_LIMIT = 30.0  # seconds that building a cage may take on a loaded machine
FLOOD = 64  # times the output limit: then the command is ended, not only its output cut
OBEY = 2.0  # seconds that the inside has to bury its dead, whose use it thereby accounts for
DISK_LOOK = 1.0  # seconds between two looks at the writable folders


@dataclass
class BoundedOutput:
    """A stream that keeps its first `limit` bytes and drops the rest."""

    handle: int
    limit: int
    kept: bytearray = field(default_factory=bytearray)
    seen: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    flooded: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        os.set_blocking(self.handle, False)
        loop.add_reader(self.handle, self._read, loop)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            data = os.read(self.handle, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.stop(loop)
            return
        self.seen += len(data)
        self.kept += data[: max(0, self.limit - len(self.kept))]
        if self.seen > FLOOD * self.limit:
            self.flooded.set()

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.closed.is_set():
            loop.remove_reader(self.handle)
            os.close(self.handle)
            self.closed.set()


class CagedProcess:
    """One command from start to burial."""

    def __init__(self, command: CagedCommand, plan: dict[str, Any], owner: int | None) -> None:
        self._command = command
        self._plan = plan
        self._owner = owner
        self._killed = ""
        self._init: int | None = None  # pidfd of the first process inside

    async def run(self) -> CagedResult:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.setblocking(False)
            with theirs:
                process, streams = self._start(theirs)
            for stream in streams:
                stream.start(loop)
            try:
                words = await self._supervise(ours, process, streams)
            finally:
                with contextlib.suppress(OSError):
                    ours.shutdown(socket.SHUT_RDWR)  # the word to kill and bury everything
                usage = await _bury(process, self._kill)
                await _drain(streams, loop)
                if self._init is not None:
                    os.close(self._init)
        return self._result(words, streams, usage, time.monotonic() - started)

    def _start(self, theirs: socket.socket) -> tuple[subprocess.Popen[bytes], list[BoundedOutput]]:
        """Starts the outermost process. Three pipes: the command's two streams, and what `unshare` says."""
        pipes = [os.pipe() for _ in range(3)]
        handles = [theirs.fileno(), pipes[0][1], pipes[1][1]]
        # The folder of inside.py is the working folder, so that the command cannot read it from an argument.
        line = "import os, sys; sys.path.insert(0, os.getcwd()); import inside; inside.main()"
        argv = [interpreter(), "-I", "-S", "-c", line, *map(str, handles)]
        if self._plan["isolated"]:
            argv = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--keep-caps", *argv]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=pipes[2][1],
                cwd=Path(__file__).parent,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                pass_fds=handles,
                start_new_session=True,
            )
        except OSError as error:
            for reading, _ in pipes:
                os.close(reading)
            raise SandboxError(
                f"a caged process cannot be started: {error.strerror}",
                code="sandbox-unavailable",
                remedy=REMEDY,
            ) from error
        finally:
            for _, writing in pipes:
                os.close(writing)
        limits = (self._command.output_limit, self._command.output_limit, 4096)
        return process, [BoundedOutput(pipe[0], limit) for pipe, limit in zip(pipes, limits, strict=True)]

    async def _supervise(
        self, ours: socket.socket, process: subprocess.Popen[bytes], streams: Sequence[BoundedOutput]
    ) -> list[str]:
        """The words of the inside. Returns when the command ended or broke a limit."""
        import marshal

        loop = asyncio.get_running_loop()
        try:
            pid = await asyncio.wait_for(_first_word(ours), START_LIMIT)
        except TimeoutError as error:
            raise SandboxError(
                f"a cage did not start within {START_LIMIT:.0f} s",
                code="sandbox-setup",
                remedy="lower the load",
            ) from error
        if pid is None:
            await _drain(streams, loop)
            said = streams[2].kept.decode(errors="replace").strip() or "no answer"
            raise SandboxError(f"namespaces are refused: {said}", code="sandbox-unavailable", remedy=REMEDY)
        with contextlib.suppress(ProcessLookupError):
            self._init = os.pidfd_open(pid)
        if self._plan["isolated"]:
            self._map_user(process.pid)
        plan = marshal.dumps(self._plan)
        await loop.sock_sendall(ours, len(plan).to_bytes(8, "big") + plan)
        limits: list[asyncio.Task[Any]] = [loop.create_task(stream.flooded.wait()) for stream in streams[:2]]
        limits.append(loop.create_task(self._watch_disk()))
        reading = loop.create_task(_read_words(ours))
        try:
            done, _ = await asyncio.wait(
                [reading, *limits], timeout=self._command.time_limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (reading, *limits):
                task.cancel()
            await asyncio.gather(reading, *limits, return_exceptions=True)
        if reading in done:
            return reading.result()
        self._killed = "time" if not done else "disk" if limits[-1] in done else "output"
        return []

    def _map_user(self, pid: int) -> None:
        """Writes the maps of the new user namespace (user_namespaces(7))."""
        folder = Path(f"/proc/{pid}")
        try:
            if self._owner is None:
                (folder / "setgroups").write_text("deny", encoding="ascii")
            for name, ours in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
                foreign = f"0 {ours} 1\n{CAGED_ID} {self._owner} 1\n"
                (folder / name).write_text(
                    foreign if self._owner is not None else f"{CAGED_ID} {ours} 1\n", encoding="ascii"
                )
        except OSError as error:
            raise SandboxError(
                f"the kernel refuses a user map: {error.strerror}", code="sandbox-unavailable", remedy=REMEDY
            ) from error

    async def _watch_disk(self) -> None:
        """Ends when the writable folders hold more than allowed; sleeps ten times as long as a look takes."""
        folders = [str(path) for path in self._command.writable.values()]
        pause = DISK_LOOK
        while True:
            await asyncio.sleep(pause)
            looked = time.monotonic()
            used = await asyncio.to_thread(_used_bytes, folders)
            if used > self._command.disk_limit:
                return
            pause = max(DISK_LOOK, 10 * (time.monotonic() - looked))

    def _kill(self) -> None:
        """Kills the first process inside, which did not obey; with it dies its whole pid namespace."""
        if self._init is not None and self._plan["isolated"]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)

    def _result(
        self, words: list[str], streams: Sequence[BoundedOutput], usage: tuple[float, int], wall: float
    ) -> CagedResult:
        returncode = -9
        for word in words:
            kind, _, rest = word.partition(" ")
            if kind == "E":
                raise SandboxError(f"the cage cannot be built: {rest}", code="sandbox-setup", remedy=REMEDY)
            if kind == "K":
                self._killed = rest
            if kind == "X":
                returncode = int(rest)
        return CagedResult(
            returncode=returncode,
            stdout=bytes(streams[0].kept),
            stderr=bytes(streams[1].kept),
            truncated=any(stream.seen > len(stream.kept) for stream in streams[:2]),
            timed_out=self._killed == "time",
            cpu_seconds=usage[0],
            max_rss_bytes=usage[1],
            wall_seconds=wall,
            isolation=self._command.isolation,
            killed=self._killed,
        )


async def _first_word(ours: socket.socket) -> int | None:
    """The process id, in our numbering, of whoever wrote the first byte (unix(7), SCM_CREDENTIALS)."""
    import struct

    await _readable(ours)
    data, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(12))
    if not data:
        return None
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid: int = struct.unpack("3i", payload)[0]
            return pid
    return None


async def _readable(ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(ours, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(ours)


async def _read_words(ours: socket.socket) -> list[str]:
    """All lines up to the one that ends the command, or to the end of the stream."""
    loop = asyncio.get_running_loop()
    text = ""
    while True:
        data = await loop.sock_recv(ours, 4096)
        text += data.decode(errors="replace")
        lines = text.splitlines()
        if not data or any(line[:1] in {"X", "K", "E"} for line in lines if text.endswith("\n")):
            return lines


async def _bury(process: subprocess.Popen[bytes], kill: Callable[[], None]) -> tuple[float, int]:
    """Waits for the outermost process; (CPU seconds, largest resident size in bytes) of all it waited for."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    handle = os.pidfd_open(process.pid)
    loop.add_reader(handle, gone.set)
    waiting = loop.create_task(gone.wait())
    patience = loop.call_later(OBEY, kill)
    try:
        while not waiting.done():
            # A cancellation must not leave before the last process is dead.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
    finally:
        patience.cancel()
        loop.remove_reader(handle)
        os.close(handle)
    try:
        # It has ended: this does not wait.
        _, status, usage = os.wait4(process.pid, 0)  # noqa: ASYNC222
    except ChildProcessError:  # somebody reaped it before us
        process.returncode = 0
        return 0.0, 0
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


async def _drain(streams: Sequence[BoundedOutput], loop: asyncio.AbstractEventLoop) -> None:
    """What is still in the pipes; nobody writes any more, so this is short."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(stream.closed.wait() for stream in streams)), 2.0)
    for stream in streams:
        stream.stop(loop)


def _used_bytes(folders: Sequence[str]) -> int:
    used = 0
    for folder in folders:
        for _, _, files, handle in os.fwalk(folder, follow_symlinks=False, onerror=None):
            for name in files:
                with contextlib.suppress(OSError):
                    used += os.stat(name, dir_fd=handle, follow_symlinks=False).st_blocks * 512
    return used
