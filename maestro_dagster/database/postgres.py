"""A room's tables in PostgreSQL, in the schema `maestro`.

A write transaction first takes the room's advisory lock, so that it is the only writer, as with SQLite's
BEGIN IMMEDIATE. It also leaves its number in the table `writer`. When a connection breaks while it commits,
the next one takes the same lock (by then the server has ended the other) and reads there what became of it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from maestro_dagster.database.address import show_url
from maestro_dagster.database.interface import PLAIN, SCHEMA, Connection, Rows, Wording
from maestro_dagster.database.migration import require_schema
from maestro_dagster.database.owner import Owner, require_owner
from maestro_dagster.database.placeholder import convert_sql
from maestro_dagster.database.pool import PATIENCE, Pool, is_lost, send

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

T = TypeVar("T")
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path TO {SCHEMA}; "
# A process that stops in the middle (SIGSTOP, a lost network) must not hold up all others for ever.
_WRITE = (
    f"BEGIN; SET LOCAL search_path TO {SCHEMA}; SET LOCAL synchronous_commit TO on;"
    " SET LOCAL lock_timeout TO '30s'; SET LOCAL idle_in_transaction_session_timeout TO '30s';"
    " SELECT pg_advisory_xact_lock({key}); "
)
_NOTE = (
    "INSERT INTO writer VALUES ('{session}', {number}, now()) ON CONFLICT (session) DO UPDATE"
    " SET number = excluded.number, at = excluded.at; "
)
_FORGET = "DELETE FROM writer WHERE at < now() - interval '7 days'; "


class LostError(Exception):
    """The connection broke. `committing`: while the transaction was committed, so nobody knows."""

    def __init__(self, cause: Exception, *, committing: bool) -> None:
        super().__init__(str(cause))
        self.cause, self.committing = cause, committing


class PostgresDatabase:
    """`room` names whose one writer it is. The schema is made when the database is empty.

    Events and runs of one project alone lie in a database: that of `owner`, and the first one stays.
    """

    kind: Literal["sqlite", "postgres"] = "postgres"

    def __init__(self, url: str, room: str, *, owner: Owner | None = None, wording: Wording = PLAIN) -> None:
        def prepare(connection: RawConnection) -> None:
            require_schema(connection, url, wording, dagster=owner is not None)
            if owner is not None:
                require_owner(connection, owner, show_url(url), wording)

        self._pool = Pool(
            url,
            wording=wording,
            prepare=prepare,
            name=f"maestro-{room}",
        )
        self.place = self._pool.place
        self._head = _WRITE.format(key=lock_key(room))
        self._begin_session()

    @property
    def failure(self) -> type[Exception]:
        return _driver_error()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        try:
            with self._transaction(_READ) as connection:
                yield connection
        except LostError as error:
            raise self._pool.fault(error.cause) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._alone():
            number = next(self._numbers)
            try:
                with self._transaction(self._note(number)) as connection:
                    connection.begin()
                    yield connection
            except LostError as error:
                if not (error.committing and self._was_committed(number)):
                    raise self._pool.fault(error.cause) from error

    def run_read(self, work: Callable[[Connection], T]) -> T:
        stop = time.monotonic() + PATIENCE
        while True:
            try:
                with self._transaction(_READ) as connection:
                    return work(connection)
            except LostError as error:
                if time.monotonic() > stop:
                    raise self._pool.fault(error.cause) from error

    def run_write(self, work: Callable[[Connection], T]) -> T:
        stop = time.monotonic() + PATIENCE
        with self._alone():
            while True:
                number = next(self._numbers)
                try:
                    with self._transaction(self._note(number)) as connection:
                        connection.begin()
                        result = work(connection)
                except LostError as error:
                    if error.committing and self._was_committed(number):
                        return result
                    if time.monotonic() > stop:
                        raise self._pool.fault(error.cause) from error
                    continue
                return result

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._pid != os.getpid():  # a forked child is another writer, and no thread of it holds the lock
            self._begin_session()
        with self._writing:
            yield

    def _begin_session(self) -> None:
        self._writing, self._pid = threading.Lock(), os.getpid()
        self._session, self._numbers = uuid.uuid4().hex, itertools.count(1)

    def _note(self, number: int) -> str:
        head = self._head + _NOTE.format(session=self._session, number=number)
        return head + _FORGET if number == 1 else head

    def _was_committed(self, number: int) -> bool:
        """Waits until the server has ended the transaction, one way or the other."""
        query = self._head + f"SELECT number FROM writer WHERE session = '{self._session}'; "  # noqa: S608
        with self._pool.room():
            raw, rows = self._pool.insist(lambda raw: _ask_once(raw, query))
        self._pool.give(raw)
        return bool(rows) and rows[0][0] == number

    @contextmanager
    def _transaction(self, head: str) -> Iterator[PostgresConnection]:
        import psycopg2

        with self._pool.room():
            connection = PostgresConnection(self._pool, head)
            committing = False
            try:
                yield connection
                committing = True
                connection.end("COMMIT")
            except psycopg2.Error as error:
                if connection.is_lost(error):
                    raise LostError(error, committing=committing) from error
                connection.end("ROLLBACK")
                raise self._pool.fault(error) from error
            except BaseException:
                connection.end("ROLLBACK")
                raise
            finally:
                connection.leave()


class PostgresConnection:
    """One transaction: it begins with its first statement, in the same round trip, or before it."""

    def __init__(self, pool: Pool, head: str) -> None:
        self._pool, self._head = pool, head
        self._raw: RawConnection | None = None
        self._began = False

    def begin(self) -> None:
        """Who writes has waited for the lock when the block begins: what it reads from the clock is later."""
        self.execute("SELECT 1")

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        statement = convert_sql(sql)
        plain = tuple(int(value) if isinstance(value, bool) else value for value in values)
        if self._raw is None:
            if self._began:
                raise RuntimeError("the first statement of this transaction failed")
            self._began = True
            self._raw, rows = self._pool.insist(lambda raw: _execute(raw, self._head + statement, plain))
            return rows
        return _execute(self._raw, statement, plain)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        from psycopg2.extras import execute_batch

        rows = list(rows)
        if not rows:
            return
        self.execute(sql, rows[0])
        if self._raw is not None:
            with self._raw.cursor() as cursor:
                execute_batch(cursor, convert_sql(sql), rows[1:], page_size=200)

    def end(self, how: str) -> None:
        """Raises what the driver raises; where a rollback fails, the server rolls back by itself."""
        if self._raw is None:
            return
        with suppress(_driver_error()) if how == "ROLLBACK" else nullcontext():
            send(self._raw, how)

    def is_lost(self, error: Exception) -> bool:
        return self._raw is not None and is_lost(self._raw, error)

    def leave(self) -> None:
        if self._raw is not None:
            self._pool.give(self._raw)  # closes it when the transaction is still open
            self._raw = None


def lock_key(room: str) -> int:
    """The advisory lock of a room: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(f"maestro {room}".encode()).digest()[:8], "big", signed=True)


def _driver_error() -> type[Exception]:
    import psycopg2

    found: type[Exception] = psycopg2.Error
    return found


def _execute(raw: RawConnection, statement: str, values: tuple[Any, ...]) -> Rows:
    cursor = raw.cursor()
    cursor.execute(statement, values)
    rows: Rows = cursor
    return rows


def _ask_once(raw: RawConnection, query: str) -> list[tuple[Any, ...]]:
    rows = send(raw, query)
    send(raw, "COMMIT")
    return rows
