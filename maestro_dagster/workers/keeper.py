"""Keeps one process beside the loop, and ends it with all it started when the loop is gone, however it went.

    python -I -S keeper.py LOOP_PID NOTE COMMAND...

A process of its own: a loop that was killed cannot clean up, and PR_SET_PDEATHSIG (prctl(2)) alone reaches
neither a process that ignores the signal nor what that one started. NOTE is a file that says who runs:

    {"pid": 1, "start": "<of /proc/pid/stat>", "argv": [...]}

Imports nothing but the standard library, and little of that.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

ORPHAN_GRACE = 3.0  # seconds that a process gets to end when the loop died: its port is wanted again
ASKED_GRACE = 8.0  # when the loop asks for it
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_START_FIELD = 22 - 3  # of proc_pid_stat(5), counted behind the name
_PARENT_FIELD = 4 - 3


def main(arguments: list[str]) -> int:
    """The exit status of the command, as a shell gives it."""
    loop, note, *command = arguments
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whoever loses its parent below becomes our child, and is ended too
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        loop_handle = os.pidfd_open(int(loop))
    except ProcessLookupError:
        return 0
    if os.getppid() != int(loop):
        return 0
    child = _start(command)
    handle = os.pidfd_open(child)
    _write_note(note, child, command)
    try:
        ready = _wait([loop_handle, handle, wake], None)
        if handle not in ready:
            _end(child, handle, ORPHAN_GRACE if loop_handle in ready else ASKED_GRACE)
        _, status = os.waitpid(child, 0)
        _end_orphans()
    finally:
        with contextlib.suppress(OSError):
            os.unlink(note)  # noqa: PTH108 - pathlib costs more than all else here
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def process_start(pid: int) -> str:
    """When a process began, in ticks since boot: with the pid it names one process for good. "" if gone."""
    return _stat_field(str(pid), _START_FIELD)


def _start(command: list[str]) -> int:
    keeper = os.getpid()
    child = os.fork()  # the only thread is this one
    if child:
        return child
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # should the keeper itself be killed
        if os.getppid() == keeper:
            os.execv(command[0], command)  # noqa: S606 - a command of the loop, and no shell
    finally:
        os._exit(127)


def _wait(handles: list[int], seconds: float | None) -> set[int]:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(None if seconds is None else seconds * 1000)}


def _end(child: int, handle: int, grace: float) -> None:
    os.kill(child, signal.SIGTERM)
    if not _wait([handle], grace):
        os.kill(child, signal.SIGKILL)


def _end_orphans() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(20):
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return  # there is none left
            time.sleep(0.05)


def _children() -> list[int]:
    ours = str(os.getpid())
    return [
        int(name)
        for name in os.listdir("/proc")  # noqa: PTH208 - as above
        if name.isdigit() and _stat_field(name, _PARENT_FIELD) == ours
    ]


def _stat_field(pid: str, number: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - as above
            return file.read().rpartition(")")[2].split()[number]
    except (OSError, IndexError):
        return ""


def _write_note(path: str, pid: int, command: list[str]) -> None:
    text = json.dumps({"pid": pid, "start": process_start(pid), "argv": command})
    with (
        contextlib.suppress(OSError),  # it only makes an error clearer
        open(f"{path}.new", "w", encoding="utf-8") as file,  # noqa: PTH123 - as above
    ):
        file.write(text)
        file.flush()
        os.replace(f"{path}.new", path)  # noqa: PTH105 - as above


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
