"""A room's own SQLite file: WAL, `synchronous=FULL`, one writer at a time, a reader for each thread."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from maestro_dagster.database.interface import DISK_FULL, PLAIN, Connection, Wording
from maestro_dagster.errors import MaestroError

T = TypeVar("T")
Connect = Callable[[Path], sqlite3.Connection]
Translate = Callable[[Exception, Path], MaestroError]
_BUSY_MS = 30_000
# A forked child must neither use nor close what its parent opened: https://www.sqlite.org/howtocorrupt.html
_inherited: list[sqlite3.Connection] = []


class SqliteDatabase:
    """`tables` is SQL that may run any number of times (`CREATE TABLE IF NOT EXISTS ...`).

    A room that looks closer at its file brings `connect`, `connect_reader` and `translate` of its own.
    """

    kind: Literal["sqlite", "postgres"] = "sqlite"
    failure: type[Exception] = sqlite3.Error

    def __init__(
        self,
        path: Path,
        *,
        tables: str = "",
        wording: Wording = PLAIN,
        connect: Connect | None = None,
        connect_reader: Connect | None = None,
        translate: Translate | None = None,
    ) -> None:
        self.path = path
        self.place = str(path)
        self._tables = tables
        self._connect = connect or self._open
        self._connect_reader = connect_reader or self._connect
        self._translate = translate or (lambda error, path: translate_error(error, path, wording))
        self._lock = threading.RLock()
        self._local = threading.local()
        self._writer: sqlite3.Connection | None = None
        self._pid = os.getpid()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._plain():
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self._notice_fork()
        with self._lock, self._plain():
            connection = self._open_writer()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def run_read(self, work: Callable[[Connection], T]) -> T:
        with self.read() as connection:
            return work(connection)

    def run_write(self, work: Callable[[Connection], T]) -> T:
        with self.write() as connection:
            return work(connection)

    def shrink_log(self) -> None:
        """Gives back the disk of the write-ahead log, unless another process is just using it."""
        with self._plain():
            connection = self._reader()
            waits = connection.execute("PRAGMA busy_timeout").fetchone()[0]
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError:
                return  # busy: the next time comes soon enough
            finally:
                connection.execute(f"PRAGMA busy_timeout={waits}")

    def close(self) -> None:
        """Closes the writer and this thread's reader; what is used again is opened again."""
        self._notice_fork()
        with self._lock:
            if self._writer is not None:
                self._writer.close()
            self._writer = None
        reader = getattr(self._local, "connection", None)
        if reader is not None and self._local.pid == os.getpid():
            reader.close()
            self._local.connection = None

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():  # the parent's lock may be held by a thread that is not here
            self._lock, self._pid = threading.RLock(), os.getpid()
            if self._writer is not None:
                _inherited.append(self._writer)
                self._writer = None

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._connected(self._connect)
        return self._writer

    def _reader(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None and self._local.pid != os.getpid():
            _inherited.append(found)
            found = None
        if found is None:
            found = self._local.connection = self._connected(self._connect_reader)
            self._local.pid = os.getpid()
        return found

    def _open(self, path: Path) -> sqlite3.Connection:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if self._tables:
                connection.executescript(f"BEGIN IMMEDIATE; {self._tables}; COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _plain(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error, self.path) from error

    def _connected(self, connect: Connect) -> sqlite3.Connection:
        try:
            return connect(self.path)
        except OSError as error:
            raise self._translate(error, self.path) from error


def translate_error(error: Exception, path: Path, wording: Wording) -> MaestroError:
    """SQLite's and the system's errors in the operator's words."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "decode to UTF-8" in str(error):
        remedy = "restore it with its -wal file from a backup"
        return wording.fault("corrupt", "is damaged and was left as it is", str(path), remedy)
    if name.startswith("SQLITE_FULL") or getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
        remedy = "free some space; what was acknowledged is kept"
        return wording.fault(DISK_FULL, "could not be written: the disk is full", str(path), remedy)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        remedy = "look for a stopped Maestro process that holds it"
        return wording.fault("busy", f"was busy for {_BUSY_MS // 1000} s", str(path), remedy)
    remedy = "check the owner and mode of the state folder, and the disk"
    return wording.fault("unavailable", f"cannot be used: {error}", str(path), remedy)
