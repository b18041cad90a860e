"""The parent's end of the child process that holds regorus.

regorus has no timer and holds the interpreter lock while it evaluates, so a limit needs a process that
can be killed. The child is started on first use, kept warm, killed at its time limit, started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from maestro_dagster.errors import PolicyError

_LENGTH = struct.Struct(">I")
_START_SECONDS = 60.0  # a busy machine starts slowly, and that is no pack's fault
_MAX_ANSWER = 64 * 1024 * 1024
_START = (
    "import sys; sys.path.append(sys.argv[1]); from maestro_dagster.policy.worker import serve; "
    "serve(int(sys.argv[2]))"
)
_ROOT = str(Path(__file__).resolve().parents[2])


class PolicyTimeoutError(PolicyError):
    code = "policy-timeout"


class PolicyCrashError(PolicyError):
    code = "policy-crashed"


class RegoChild:
    """One warm child, shared by threads, never by processes. Limits: seconds and bytes.

    `ask` returns the child's answer. It raises PolicyTimeoutError when the limit passed and
    PolicyCrashError when the child died (out of memory, a fault of the engine); in both cases the
    child is gone and the next call starts a new one, with nothing loaded.
    """

    def __init__(self, *, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> None:
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self.version = "regorus"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], *, seconds: float | None = None) -> dict[str, Any]:
        limit = self.seconds if seconds is None else seconds
        body = json.dumps({**request, "cpu_seconds": limit}, allow_nan=False).encode()
        with self._lock:
            try:
                process = self._start()
                deadline = time.monotonic() + limit
                _send(process, _LENGTH.pack(len(body)) + body, deadline)
                answer: dict[str, Any] = json.loads(_receive_frame(process, deadline))
            except BaseException:
                # Also on KeyboardInterrupt: a half-read answer must never meet the next question.
                self._kill()
                raise
        self.version = answer.get("version", self.version)
        return answer

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner != os.getpid():
            self._process = None  # forked: the pipe belongs to the process that started it
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, _ROOT, str(self.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                cwd="/",
                close_fds=True,
            )
            self._owner = os.getpid()
            started = time.monotonic() + _START_SECONDS
            for stream in (self._process.stdin, self._process.stdout):
                os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
            _receive_frame(self._process, started)
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105 - at exit even contextlib is gone
            self._kill()
        except Exception:  # noqa: BLE001, S110 - and nobody is there to be told
            pass


def _send(process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    assert process.stdin is not None  # noqa: S101
    fd = process.stdin.fileno()
    view = memoryview(data)
    while view:
        _wait(fd, select.POLLOUT, deadline)
        try:
            view = view[os.write(fd, view) :]
        except BrokenPipeError:
            raise _crashed() from None


def _receive_frame(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    size = _LENGTH.unpack(_receive(process, _LENGTH.size, deadline))[0]
    if size > _MAX_ANSWER:
        raise PolicyCrashError(f"the policy engine answered with {size} bytes")
    return _receive(process, size, deadline)


def _receive(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None  # noqa: S101
    fd = process.stdout.fileno()
    data = bytearray()
    while len(data) < size:
        _wait(fd, select.POLLIN, deadline)
        chunk = os.read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            raise _crashed()
        data += chunk
    return bytes(data)


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(remaining * 1000):
        raise PolicyTimeoutError(
            "the evaluation took longer than its time limit",
            remedy="simplify the pack: a rule probably iterates over its input several times",
        )


def _crashed() -> PolicyCrashError:
    return PolicyCrashError(
        "the policy engine's process died",
        remedy="the pack probably needs more memory than the limit; simplify it or use policy_engine = 'opa'",
    )
