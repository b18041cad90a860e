"""Who a process is, and whether it is still there: a pid alone is reused within minutes."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_GONE = frozenset("ZX")  # a zombie does no work any more


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """`host` is one boot of one machine and pid namespace; `born` is the start time in clock ticks."""

    host: str
    pid: int
    born: int

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.born}"

    @classmethod
    def parse(cls, text: str) -> ProcessMark | None:
        """Reads `str(mark)`, also with a `#suffix` behind it; None when it is something else."""
        text = text.partition("#")[0]
        host, _, rest = text.rpartition("/")
        host, _, pid = host.rpartition("/")
        if not (host and pid.isdigit() and rest.isdigit()):
            return None
        return cls(host, int(pid), int(rest))

    def is_alive(self) -> bool | None:
        """None when it lives on another machine, where nobody here can look."""
        if self.host != _host():
            return None
        found = _read_stat(self.pid)
        return found is not None and found[0] not in _GONE and found[1] == self.born


def mark_process() -> ProcessMark:
    """The mark of the calling process."""
    return _mark(os.getpid())


@cache
def _mark(pid: int) -> ProcessMark:
    found = _read_stat(pid)
    return ProcessMark(_host(), pid, found[1] if found else 0)


@cache
def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink().name}"
    except OSError:
        return platform.node()


def _read_stat(pid: int) -> tuple[str, int] | None:
    """(state, start time) from /proc/<pid>/stat, see proc(5); the name in it may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()
    return fields[0], int(fields[19])
