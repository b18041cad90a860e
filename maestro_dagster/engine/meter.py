"""Counts what an attempt uses: CPU of the event loop between its awaits, and what the kind reports."""

from __future__ import annotations

import time
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class AttemptMeter:
    """The Meter of one attempt. CPU in seconds."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.bytes_in = 0
        self.bytes_out = 0

    def add_cpu(self, seconds: float) -> None:
        self.cpu += max(0.0, seconds)

    def add_network(self, bytes_in: int, bytes_out: int) -> None:
        self.bytes_in += max(0, bytes_in)
        self.bytes_out += max(0, bytes_out)


@types.coroutine
def measure(work: Coroutine[Any, Any, T], meter: AttemptMeter) -> Generator[Any, Any, T]:
    """Awaits `work` and adds the CPU time of each of its resumptions, not that of other steps between."""
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
        sent, thrown = None, None
        try:
            sent = yield yielded
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001 - passed on to the step
            thrown = error
