"""Group commit: one thread writes, and many writes share one wait for the disk.

Each piece of work runs in a savepoint of the shared transaction, so one that fails takes nothing with
it. Pieces run in the order in which they were submitted; a future is set only after the commit. What
must be durable before a piece is acknowledged (contents, usage) comes along as deliveries: those of one
batch that go to the same place are made together, before the transaction begins.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from maestro_dagster.database.interface import Connection, Database
from maestro_dagster.errors import JournalError

T = TypeVar("T")
Work = Callable[[Connection], T]
_MOST = 256  # pieces in one transaction: other processes wait for it


@dataclass(frozen=True, slots=True)
class Delivery:
    """`take` gets the items of all deliveries of a batch to it, and returns when they are durable."""

    take: Callable[[Sequence[Any]], object]
    items: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Piece:
    work: Work[Any]
    deliveries: Sequence[Delivery]
    future: Future[Any]


class GroupWriter:
    """Starts its thread with the first write; a forked child gets a thread and connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._pid = 0
        self._closed = False
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Work[T], deliveries: Sequence[Delivery] = ()) -> Future[T]:
        """Runs `work` in the writer's thread; the future holds its result once it is durable."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise JournalError(
                    "the journal was closed", place=self._database.place, code="journal-closed"
                )
            if self._pid != os.getpid():
                self._start()
            self._queue.put(_Piece(work, deliveries, future))
        return future

    def call(self, work: Work[T]) -> T:
        return self.submit(work).result()

    def close(self) -> None:
        """Waits for what was submitted."""
        with self._lock:
            self._closed = True
            thread = self._thread if self._pid == os.getpid() else None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(self._queue,), name="maestro-journal", daemon=True
        )
        self._pid = os.getpid()
        self._thread.start()

    def _run(self, waiting: queue.SimpleQueue[_Piece | None]) -> None:
        while (first := waiting.get()) is not None:
            batch = [first]
            item: _Piece | None = first
            while len(batch) < _MOST and not waiting.empty():
                item = waiting.get()
                if item is None:
                    break
                batch.append(item)
            self._commit(batch)
            if item is None:
                break
        self._database.close()

    def _commit(self, batch: list[_Piece]) -> None:
        def work(connection: Connection) -> list[tuple[Any, Exception | None]]:
            if len(batch) == 1:  # the transaction itself is the savepoint
                return [(batch[0].work(connection), None)]
            failure = self._database.failure
            return [_run_piece(connection, piece.work, failure) for piece in batch]

        try:
            _deliver(batch)
            results = self._database.run_write(work)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            for piece in batch:
                piece.future.set_exception(error)
            return
        for piece, (result, failure) in zip(batch, results, strict=True):
            if failure is not None:
                piece.future.set_exception(failure)
            else:
                piece.future.set_result(result)


def _deliver(batch: list[_Piece]) -> None:
    together: dict[Callable[[Sequence[Any]], object], list[Any]] = {}
    for piece in batch:
        for delivery in piece.deliveries:
            together.setdefault(delivery.take, []).extend(delivery.items)
    for take, items in together.items():
        take(items)


def _run_piece(
    connection: Connection, work: Work[Any], broken: type[Exception]
) -> tuple[Any, Exception | None]:
    connection.execute("SAVEPOINT piece")
    try:
        result = work(connection)
    except broken:
        raise  # the file, the disk or the server: the whole batch fails
    except Exception as error:  # noqa: BLE001 - handed to the one who waits for this piece
        connection.execute("ROLLBACK TO piece")
        connection.execute("RELEASE piece")
        return None, error
    connection.execute("RELEASE piece")
    return result, None
