"""Connections to a PostgreSQL that threads and processes share, and what to do when one is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

from maestro_dagster.database.address import hide_url, show_url
from maestro_dagster.database.interface import DISK_FULL, PLAIN, SCHEMA, Wording
from maestro_dagster.database.refusal import explain_refusal
from maestro_dagster.errors import MaestroError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

T = TypeVar("T")
MOST = 8  # connections of one pool at once; further callers wait in line
_IDLE = 4  # of them that are kept
PATIENCE = 20.0  # seconds in which a server that restarts is waited for
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds; the last one again and again
_CONNECT = {
    "connect_timeout": 5,
    "client_encoding": "utf8",
    # A server that vanished without a word is noticed within the patience above.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# SQLSTATE, see https://www.postgresql.org/docs/current/errcodes-appendix.html
_DISK_FULL, _LOCKED, _NO_DATABASE, _NO_LOGIN = "53100", "55P03", "3D000", "28"


class Pool:
    """Connects on first use. Connections are in autocommit: what is sent in one piece is one transaction.

    Args:
        url: `postgresql://...`.
        wording: how errors speak.
        settings: SQL that each new connection is sent first.
        prepare: looks at the database once in each process, before its first use.

    """

    def __init__(
        self,
        url: str,
        *,
        wording: Wording = PLAIN,
        settings: str = "",
        prepare: Callable[[RawConnection], None] | None = None,
        name: str = "maestro",
    ) -> None:
        self.place = show_url(url)
        self._url, self._wording, self._name = url, wording, name
        # Else it would be the role's name that decides where a table is looked for.
        self._settings = f"SET search_path TO {SCHEMA}; {settings}"
        self._prepare = prepare
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST)
        self._idle: list[RawConnection] = []
        self._pid = os.getpid()
        self._reached = False
        self._ready = False

    @contextmanager
    def room(self) -> Iterator[None]:
        """A place in line: no more than MOST of them use the database at once."""
        self._notice_fork()
        with self._room:
            yield

    def insist(self, act: Callable[[RawConnection], T]) -> tuple[RawConnection, T]:
        """Does it on a connection that works; what is lost is tried again while there is patience.

        So `act` is something whose repetition changes nothing. The connection has to be given back. A
        server that was never reached is not waited for: its URL may be wrong.
        """
        psycopg2 = self.driver()
        stop = time.monotonic() + PATIENCE
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            connection = None
            try:
                connection = self._take()
                return connection, act(connection)
            except psycopg2.Error as error:
                lost = is_lost(connection, error)
                if connection is not None and lost:
                    connection.close()
                elif connection is not None:
                    self.give(connection)
                if not lost or not self._reached or time.monotonic() > stop:
                    raise self.fault(error) from error
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            time.sleep(pause)
        raise AssertionError("there is always another pause")

    def give(self, connection: RawConnection) -> None:
        """Back into the pool; one with an open transaction, or of another process, is closed."""
        with self._lock:
            if self._pid == os.getpid() and len(self._idle) < _IDLE and is_idle(connection):
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                for connection in self._idle:
                    connection.close()
            self._idle = []

    def fault(self, error: Exception) -> MaestroError:
        """The driver's error in the operator's words."""
        state = getattr(error, "pgcode", None) or ""
        why = hide_url(next(iter(str(error).strip().splitlines()), "the server gave no reason"), self._url)
        if state == _DISK_FULL:
            remedy = "free space there, then try again; what was acknowledged is kept"
            return self._wording.fault(
                DISK_FULL, "could not be written: its disk is full", self.place, remedy
            )
        if state == _LOCKED:
            remedy = "look for a process that holds a lock in that database: `SELECT * FROM pg_stat_activity`"
            return self._wording.fault("busy", "was busy for too long", self.place, remedy)
        if state and state != _NO_DATABASE and not state.startswith(("08", "57", _NO_LOGIN)):
            remedy = "look at the database that the setting `database` names, and at its log"
            return self._wording.fault("refused", f"did not take a statement: {why}", self.place, remedy)
        what, remedy = explain_refusal(str(error), why)
        return self._wording.fault("unavailable", what, self.place, remedy)

    def driver(self) -> Any:
        """The module psycopg2. Raises (`unavailable`) where the extra is not installed."""
        try:
            import psycopg2
        except ImportError as error:
            remedy = "install the extra: pip install 'maestro-dagster[postgres]'"
            raise self._wording.fault(
                "unavailable", "is a PostgreSQL, and its driver is not installed", self.place, remedy
            ) from error
        return psycopg2

    def _notice_fork(self) -> None:
        """A forked child must not talk through its parent's connections, nor say good-bye on them."""
        if self._pid != os.getpid():
            _inherited.extend(self._idle)
            self._lock, self._room = threading.Lock(), threading.BoundedSemaphore(MOST)
            self._idle, self._reached, self._ready = [], False, False
            self._pid = os.getpid()

    def _take(self) -> RawConnection:
        self._notice_fork()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = self.driver().connect(self._url, application_name=self._name, **_CONNECT)
        try:
            connection.autocommit = True
            self._reached = True
            send(connection, self._settings)
            if not self._ready:
                if self._prepare is not None:
                    self._prepare(connection)
                self._ready = True
        except BaseException:
            connection.close()
            raise
        return connection


_inherited: list[Any] = []


def send(connection: RawConnection, statements: str, values: Any = None) -> list[tuple[Any, ...]]:
    """One round trip: the rows of the last statement."""
    with connection.cursor() as cursor:
        cursor.execute(statements, values or None)
        rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        return rows


def is_idle(connection: RawConnection) -> bool:
    """Whether it works and no transaction is open on it."""
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

    return not connection.closed and connection.get_transaction_status() == TRANSACTION_STATUS_IDLE


def is_lost(connection: RawConnection | None, error: Exception) -> bool:
    """Whether the server is gone, or is about to hang up (SQLSTATE 57P01 and its kin).

    The driver does not always notice: its own word for a connection that broke may be that it is open.
    """
    from psycopg2 import DatabaseError, OperationalError
    from psycopg2.extensions import TRANSACTION_STATUS_UNKNOWN

    state = getattr(error, "pgcode", None) or ""
    if state.startswith(("08", "57P")) or (connection is None and not state):
        return True
    # A server says its reason with a state; without one it is the line that speaks.
    if not state and type(error) in {DatabaseError, OperationalError}:
        return True
    return connection is not None and bool(
        connection.closed or connection.get_transaction_status() == TRANSACTION_STATUS_UNKNOWN
    )


def look_at(url: str, look: Callable[[RawConnection], T], *, name: str) -> T:
    """What `look` finds, on a connection of its own that is closed behind it. Raises as `Pool.insist`."""
    pool = Pool(url, name=name)
    try:
        connection, found = pool.insist(look)
        pool.give(connection)
    finally:
        pool.close()
    return found
