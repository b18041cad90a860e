"""A source of figures that is not waited for longer than whoever asks can wait.

A database that vanished is waited for many times longer than Prometheus waits, once for each kind of records;
and without the figures that there still are nobody would hear that it is away.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

from maestro_dagster.errors import DatabaseError
from maestro_dagster.telemetry.metric import MetricSource, Sheet


class PatientSource:
    """Reads in a thread of its own, so that all sources are read at once and a slow one holds up no other.

    One that still reads when it is asked again is not asked twice: what it finds is given then.
    """

    def __init__(self, source: MetricSource, seconds: float) -> None:
        self.name = source.name
        self._source, self._seconds = source, seconds
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[Future[Sheet]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._future: Future[Sheet] | None = None
        self._until = 0.0

    def ask(self) -> Future[Sheet]:
        """Begins to read; `fill` gives what was found, within the time that begins here."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name=f"figures-{self.name}", daemon=True)
                self._thread.start()
            self._until = time.monotonic() + self._seconds
            if self._future is None:
                self._future = Future()
                self._asked.put(self._future)
            return self._future

    def fill(self, sheet: Sheet) -> None:
        """Raises DatabaseError (`figures-late`) too."""
        future = self._future or self.ask()
        try:
            part = future.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError as error:
            raise DatabaseError(
                f"the figures of {self.name} did not come within {self._seconds:.0f} s",
                place="/metrics",
                remedy="look whether the database can be reached: `maestro doctor`",
                code="figures-late",
            ) from error
        finally:
            with self._lock:
                if future.done() and self._future is future:
                    self._future = None
        sheet.add_sheet(part)

    def _read(self) -> None:
        while True:
            future, sheet = self._asked.get(), Sheet()
            try:
                self._source.fill(sheet)
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                future.set_exception(error)
            else:
                future.set_result(sheet)
