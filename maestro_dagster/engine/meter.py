"""Counts what an attempt uses: CPU of the event loop between its awaits, memory, and what the kind reports.

Memory is an integral over time. This process belongs to all attempts that run in it, so at any moment its
resident size is divided equally among them: what they are charged together is what the process held. A
caged command is counted apart: the resident size of its largest process, for as long as the command took.
"""

from __future__ import annotations

import os
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_EVERY = 0.1  # seconds between two looks at the resident size; one look takes some 20 us


def read_resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm); 0 where the kernel does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - this runs often
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


class SharedMemory:
    """Resident memory over time, for each of those that share the process. Thread-safe.

    One running sum serves all: an attempt's share is the sum at its end minus the sum at its start.
    """

    def __init__(
        self, resident: Callable[[], int] = read_resident, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resident = resident
        self._clock = clock
        self._lock = threading.Lock()
        self._sharing = 0
        self._sum = 0.0  # byte-seconds for one of those that were there all the time
        self._looked = 0.0
        self._size = 0

    def enter(self) -> float:
        """Joins; gives the mark to leave with."""
        with self._lock:
            self._count()
            self._sharing += 1
            return self._sum

    def leave(self, mark: float) -> float:
        """Byte-seconds since the mark was given."""
        with self._lock:
            self._count()
            self._sharing -= 1
            return self._sum - mark

    def look(self) -> None:
        """Cheap unless the last look was some time ago."""
        if self._clock() - self._looked >= _LOOK_EVERY:
            with self._lock:
                self._count()

    def _count(self) -> None:
        now, size = self._clock(), self._resident()
        if self._sharing:
            self._sum += (now - self._looked) * (self._size + size) / 2 / self._sharing
        self._looked, self._size = now, size


_process_memory = SharedMemory()


class AttemptMeter:
    """The Meter of one attempt: CPU in seconds, memory in byte-seconds, network in bytes."""

    def __init__(self, shared: SharedMemory = _process_memory) -> None:
        self.shared = shared
        self.cpu = 0.0
        self.memory = 0.0
        self.bytes_in = 0
        self.bytes_out = 0

    def add_cpu(self, seconds: float) -> None:
        self.cpu += max(0.0, seconds)

    def add_memory(self, byte_seconds: float) -> None:
        self.memory += max(0.0, byte_seconds)

    def add_network(self, bytes_in: int, bytes_out: int) -> None:
        self.bytes_in += max(0, bytes_in)
        self.bytes_out += max(0, bytes_out)


@types.coroutine
def measure(work: Coroutine[Any, Any, T], meter: AttemptMeter) -> Generator[Any, Any, T]:
    """Awaits `work` and adds the CPU time of each of its resumptions, not that of other steps between,
    and its share of the process's memory.
    """
    mark = meter.shared.enter()
    try:
        return (yield from _resume(work, meter))
    finally:
        meter.add_memory(meter.shared.leave(mark))


def _resume(work: Coroutine[Any, Any, T], meter: AttemptMeter) -> Generator[Any, Any, T]:
    sent: Any = None
    thrown: BaseException | None = None
    while True:
        began = time.thread_time()
        try:
            yielded = work.send(sent) if thrown is None else work.throw(thrown)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            meter.cpu += time.thread_time() - began
        meter.shared.look()
        sent, thrown = None, None
        try:
            sent = yield yielded
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001 - passed on to the step
            thrown = error
