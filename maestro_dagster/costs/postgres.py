"""Connections to a PostgreSQL that threads and processes share, and what to do when one is lost.

Whatever is executed here may be sent twice: when a connection breaks while a statement commits, nobody can
tell whether it did. So every statement is written such that its repetition changes nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

from maestro_dagster.costs.counter_postgres import show_url
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its own name is lower case

T = TypeVar("T")
_MOST = 8  # statements of one process at once; further callers wait in line
_PATIENCE = 20.0  # seconds in which a server that restarts is waited for
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds; the last one again and again
_CONNECT = {
    "connect_timeout": 5,
    "application_name": "maestro-usage",
    "client_encoding": "utf8",
    # A server that vanished without a word is noticed within the patience above.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_DISK_FULL, _BAD_DATA = "53100", "22"  # SQLSTATE, and a class of them


class Database:
    """Connects on first use and makes its tables then. `tables` is SQL that may run any number of times;
    its last statement says the version of the tables, which may not be above `version`.
    """

    def __init__(self, url: str, *, tables: str, version: int) -> None:
        self._url, self._tables, self._version = url, tables, version
        self.place = show_url(url)
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_MOST)
        self._idle: list[Connection] = []
        self._pid = 0
        self._ready = False

    def execute(self, statements: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """One transaction in one round trip: the rows of its last statement. Committed when it returns.

        Raises CostError (`disk-full`, `event-invalid`, `spool-write`, `spool-unavailable`).
        """

        def send(connection: Connection) -> list[tuple[Any, ...]]:
            rows = _send(connection, statements, values)
            self._give(connection)
            return rows

        with self._room:
            return self._insist(send)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the tables as of one moment. Raises CostError (`spool-unavailable`)."""
        import psycopg2

        def begin(connection: Connection) -> Connection:
            _send(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", {})
            return connection

        connection = self._insist(begin)
        done = False
        try:
            yield connection
            _send(connection, "COMMIT", {})
            done = True
        except psycopg2.Error as error:
            raise self._error(error) from error
        finally:
            if done:
                self._give(connection)
            else:
                connection.close()

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                for connection in self._idle:
                    connection.close()
            self._idle = []

    def _insist(self, act: Callable[[Connection], T]) -> T:
        """Does it on a connection that works; what is lost is tried again while there is patience.

        A server that was never reached is not waited for: its URL may be wrong.
        """
        import psycopg2

        stop = time.monotonic() + _PATIENCE
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            connection = None
            try:
                connection = self._take()
                return act(connection)
            except psycopg2.Error as error:
                lost = connection is None or bool(connection.closed)
                if connection is not None:
                    connection.close()
                if not lost or not self._ready or time.monotonic() > stop:
                    raise self._error(error) from error
            time.sleep(pause)
        raise AssertionError("there is always another pause")

    def _take(self) -> Connection:
        with self._lock:
            if self._pid != os.getpid():  # a forked child must not talk through its parent's connections
                self._idle, self._pid, self._ready = [], os.getpid(), False
                self._room = threading.BoundedSemaphore(_MOST)
            if self._idle:
                return self._idle.pop()
        import psycopg2

        connection = psycopg2.connect(self._url, **_CONNECT)
        try:
            connection.autocommit = True  # what is sent in one piece is one transaction
            _send(connection, "SET synchronous_commit = on; SET lock_timeout = '30s'", {})
            if not self._ready:
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        found = _send(connection, self._tables, {})[0][0]
        if found > self._version:
            raise CostError(
                f"the usage tables have version {found}, this Maestro knows {self._version}",
                place=self.place,
                remedy="install the Maestro that made them, or name another database",
                code="spool-foreign",
            )
        self._ready = True

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if self._pid == os.getpid() and len(self._idle) < _MOST:
                self._idle.append(connection)
                return
        connection.close()

    def _error(self, error: Exception) -> CostError:
        state = getattr(error, "pgcode", None) or ""
        why = next(iter(str(error).strip().splitlines()), "the server gave no reason")
        if state == _DISK_FULL:
            return CostError(
                "the database's disk is full, no usage was recorded",
                place=self.place,
                remedy="free space there, then retry the run",
                code="disk-full",
            )
        if state.startswith(_BAD_DATA):
            return CostError(
                f"the database takes a usage event not: {why}", place=self.place, code="event-invalid"
            )
        if state and not state.startswith(("08", "57")):
            return CostError(
                f"usage cannot be recorded: {why}",
                place=self.place,
                remedy="look at the database that the setting `database` names",
                code="spool-write",
            )
        return CostError(
            f"the database of the usage cannot be reached: {why}",
            place=self.place,
            remedy="start it, or correct the setting `database`; then retry the run",
            code="spool-unavailable",
        )


def require_driver() -> None:
    """Raises CostError (`spool-unavailable`) where the extra is not installed."""
    try:
        import psycopg2  # noqa: F401 - whether it is there
    except ImportError as error:
        raise CostError(
            "usage is to be kept in PostgreSQL, and its driver is not installed",
            place="setting database",
            remedy="install the extra: pip install 'maestro-dagster[postgres]'",
            code="spool-unavailable",
        ) from error


def _send(connection: Connection, statements: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statements, values or None)
        rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        return rows
