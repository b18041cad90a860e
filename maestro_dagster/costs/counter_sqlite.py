"""Budgets counted in an SQLite file that the processes of one machine share.

WAL with `synchronous=NORMAL`: a booking survives the death of its process at once, and that of the
machine with the end of its run, which waits for the disk. What a machine's death takes before that, the
resumed run puts right from the spool. A file lock goes before SQLite's own: waiters come in turn, where
SQLite would have them sleep and try.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maestro_dagster.costs.account import (
    Entry,
    Freeze,
    Page,
    Tally,
    add_spent,
    hold,
    is_of_run,
    list_paths,
)
from maestro_dagster.costs.counter import Counter
from maestro_dagster.errors import CostError

VERSION = 1
APPLICATION = 0x4D424447  # "MBDG"
_BUSY_MS = 30_000
_QUICKLY_CHECKED = 4 * 1024 * 1024  # bytes that are read through in a few milliseconds
_TABLES = """
CREATE TABLE account (
  key TEXT PRIMARY KEY, spent_nano INTEGER NOT NULL, reserved_nano INTEGER NOT NULL,
  spent_tokens INTEGER NOT NULL, reserved_tokens INTEGER NOT NULL, unknown INTEGER NOT NULL,
  told INTEGER NOT NULL, alerted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE entry (
  reservation_id TEXT PRIMARY KEY, run_id TEXT NOT NULL, owner TEXT NOT NULL, keys TEXT NOT NULL,
  nano INTEGER NOT NULL, tokens INTEGER NOT NULL, unknown INTEGER NOT NULL, open INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX entry_run ON entry (run_id);
CREATE TABLE ended (run_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE frozen (
  path TEXT PRIMARY KEY, reason TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL
) WITHOUT ROWID
"""
_ACCOUNT = "key, spent_nano, reserved_nano, spent_tokens, reserved_tokens, unknown, told, alerted"
_ENTRY = "reservation_id, run_id, owner, keys, nano, tokens, unknown, open"


class SqliteCounter(Counter):
    """Opened on first use. Safe between threads, processes and forks. `path`: the file."""

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self.path = path
        self._anew = anew  # counting starts at zero where the file is gone; else that is an error
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._gate = -1
        self._pid = 0

    @contextmanager
    def _page(
        self, run_id: str, keys: Sequence[str], reservation_id: str | None, *, durable: bool = False
    ) -> Iterator[Page]:
        with self._write(durable=durable) as connection:
            found = self._read_entries(connection, run_id, reservation_id)
            every = tuple(dict.fromkeys([*keys, *(key for entry in found for key in entry.keys)]))
            tallies = _read_tallies(connection, every)
            frozen, ended = _read_stops(connection, run_id, every)
            entries = {entry.reservation_id: entry for entry in found}
            page = Page(dict(tallies), dict(entries), frozen, ended)
            yield page
            _write_page(connection, page, tallies, entries)
            if page.end:
                _forget(connection, run_id, page.tallies)
        if page.end:
            self._shrink_log()

    def read(self, keys: Collection[str]) -> dict[str, Tally]:
        if self._is_unused():  # nobody has counted yet, and looking makes no file
            return {key: Tally() for key in keys}
        with self._lock, _plain_errors(self.path):
            return _read_tallies(self._open(), tuple(keys))

    def list_tallies(self, path: str) -> dict[str, Tally]:
        if self._is_unused():
            return {}
        with self._lock, _plain_errors(self.path):
            # "0" and "$" follow "/" and "#" in ASCII: the keys below the path, and its own.
            rows = self._open().execute(
                f"SELECT {_ACCOUNT} FROM account WHERE (key >= ? AND key < ?) OR (key >= ? AND key < ?)",
                (f"{path}/", f"{path}0", f"{path}#", f"{path}$"),
            )
            return {row[0]: Tally(*row[1:]) for row in rows}

    def freeze(self, freeze: Freeze) -> None:
        with self._write(durable=True) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO frozen VALUES (?, ?, ?, ?)",
                (freeze.path, freeze.reason, freeze.by, freeze.at),
            )

    def thaw(self, path: str) -> bool:
        with self._write(durable=True) as connection:
            return connection.execute("DELETE FROM frozen WHERE path = ?", (path,)).rowcount == 1

    def list_frozen(self) -> tuple[Freeze, ...]:
        if self._is_unused():
            return ()
        with self._lock, _plain_errors(self.path):
            return _read_frozen(self._open())

    def mark_alerted(self, key: str, bits: int) -> int:
        with self._write() as connection:
            row = connection.execute("SELECT alerted FROM account WHERE key = ?", (key,)).fetchone()
            if row is None:
                return 0
            connection.execute("UPDATE account SET alerted = ? WHERE key = ?", (row[0] | bits, key))
            return bits & ~int(row[0])

    def restore(self, sums: Mapping[str, Tally]) -> None:
        """Sets what ended runs have spent, for a file that was lost; what goes on is added to it."""
        with self._write(durable=True) as connection:
            rows = connection.execute(f"SELECT {_ENTRY} FROM entry").fetchall()
            whole = dict(sums)
            for entry in map(make_entry, rows):
                for key in entry.keys:
                    tally = whole.get(key, Tally())
                    whole[key] = (
                        hold(tally, entry.nano, entry.tokens)
                        if entry.open
                        else add_spent(tally, entry.nano, entry.tokens, entry.unknown)
                    )
            connection.executemany(
                "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(key, *tally) for key, tally in whole.items()],
            )

    def check(self) -> str:
        if self._is_unused():
            return "nothing was counted against a budget yet"
        with self._lock, _plain_errors(self.path):
            found = self._open().execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _corrupt(self.path)
            count = self._open().execute("SELECT count(*) FROM account").fetchone()[0]
        return f"{count} budget accounts in {self.path.name}"

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                os.close(self._gate)
            self._connection = None

    def _shrink_log(self) -> None:
        """Gives back the disk of the write-ahead log, unless another process is just using it."""
        with self._lock, _plain_errors(self.path):
            connection = self._open()
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError:
                return  # busy: the next run's end comes soon enough
            finally:
                connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")

    def _read_entries(
        self, connection: sqlite3.Connection, run_id: str, reservation_id: str | None
    ) -> list[Entry]:
        column, value = ("run_id", run_id) if reservation_id is None else ("reservation_id", reservation_id)
        rows = connection.execute(f"SELECT {_ENTRY} FROM entry WHERE {column} = ?", (value,))
        return [make_entry(row) for row in rows]

    @contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction. `durable` waits for the disk, for all that was booked before as well."""
        with self._lock, _plain_errors(self.path):
            connection = self._open()
            if durable:
                connection.execute("PRAGMA synchronous=FULL")
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
                if durable:
                    connection.execute("PRAGMA synchronous=NORMAL")

    @property
    def _lock_file(self) -> Path:
        return self.path.with_name(self.path.name + "-lock")

    def _is_unused(self) -> bool:
        """Nobody has counted yet. A file that is gone is something else: nothing must look unspent then."""
        if self.path.exists():
            return False
        try:
            return self._anew or not self._lock_file.stat().st_size
        except FileNotFoundError:
            return True

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        gate = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            # Written once there were counters: an absent or empty file has lost them.
            known = os.fstat(gate).st_size > 0
            if known and not self._anew:
                _refuse_loss(self.path)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.path)
                if not known:
                    os.write(gate, b"counted\n")
                    os.fsync(gate)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(gate)
            raise
        fcntl.flock(gate, fcntl.LOCK_UN)
        self._connection, self._gate, self._pid = connection, gate, os.getpid()
        return connection


def make_entry(row: Sequence[Any]) -> Entry:
    """From a row in the order of `entry_row`."""
    return Entry(
        reservation_id=row[0],
        run_id=row[1],
        owner=row[2],
        keys=unpack_keys(row[3]),
        nano=int(row[4]),
        tokens=int(row[5]),
        unknown=int(row[6]),
        open=bool(row[7]),
    )


def unpack_keys(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


def _read_tallies(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Tally]:
    tallies = dict.fromkeys(keys, Tally())
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        marks = ",".join("?" * len(some))
        rows = connection.execute(f"SELECT {_ACCOUNT} FROM account WHERE key IN ({marks})", some)
        tallies.update({row[0]: Tally(*row[1:]) for row in rows})
    return tallies


def _read_frozen(connection: sqlite3.Connection) -> tuple[Freeze, ...]:
    rows = connection.execute("SELECT path, reason, by, at FROM frozen ORDER BY path")
    return tuple(Freeze(*row) for row in rows)


def _read_stops(
    connection: sqlite3.Connection, run_id: str, keys: Sequence[str]
) -> tuple[tuple[Freeze, ...], bool]:
    """(what is frozen above the accounts, whether the run's figures are final)."""
    rows = connection.execute(
        "SELECT path, reason, by, at FROM frozen UNION ALL SELECT '', '', '', '' FROM ended WHERE run_id = ?",
        (run_id,),
    ).fetchall()
    if not rows:
        return (), False
    paths = list_paths(keys)
    return tuple(Freeze(*row) for row in rows if row[0] in paths), any(not row[0] for row in rows)


def _write_page(
    connection: sqlite3.Connection, page: Page, tallies: dict[str, Tally], entries: dict[str, Entry]
) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(key, *tally) for key, tally in page.tallies.items() if tally != tallies.get(key)],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [entry_row(entry) for name, entry in page.entries.items() if entry != entries.get(name)],
    )
    gone = [(name,) for name in entries.keys() - page.entries.keys()]
    if gone:
        connection.executemany("DELETE FROM entry WHERE reservation_id = ?", gone)


def entry_row(entry: Entry) -> tuple[str | int, ...]:
    return (
        entry.reservation_id,
        entry.run_id,
        entry.owner,
        "\n".join(entry.keys),
        entry.nano,
        entry.tokens,
        entry.unknown,
        int(entry.open),
    )


def _forget(connection: sqlite3.Connection, run_id: str, touched: Collection[str]) -> None:
    keys = {key for key in touched if is_of_run(key, run_id)}
    connection.executemany("DELETE FROM account WHERE key = ?", [(key,) for key in keys])
    connection.execute("DELETE FROM entry WHERE run_id = ?", (run_id,))
    connection.execute("INSERT OR IGNORE INTO ended VALUES (?)", (run_id,))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """The tables, and how the file is written. The caller holds the gate."""
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION or application not in {0, APPLICATION} or (version and application != APPLICATION):
        raise CostError(
            "this file holds no budget counters that this Maestro knows",
            place=str(path),
            remedy="install the Maestro that wrote it, or set MAESTRO_HOME to another folder",
            code="budget-counter-foreign",
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    if not version:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    elif (
        path.stat().st_size < _QUICKLY_CHECKED
        and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok"
    ):
        raise _corrupt(path)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors in the operator's words."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _corrupt(path) from error
        if name.startswith("SQLITE_FULL"):
            raise _unusable(path, "the disk is full", "free some space", "disk-full") from error
        raise _unusable(path, str(error), "check the owner and mode of the state folder") from error
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        if full:
            raise _unusable(path, "the disk is full", "free some space", "disk-full") from error
        why = error.strerror or str(error)
        raise _unusable(path, why, "check the owner and mode of the state folder") from error


def _unusable(path: Path, why: str, remedy: str, code: str = "budget-counter-unavailable") -> CostError:
    return CostError(f"the budget counters cannot be used: {why}", place=str(path), remedy=remedy, code=code)


def _refuse_loss(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        return
    raise CostError(
        "the file of the budget counters is gone: nobody knows what was spent",
        place=str(path),
        remedy="restore it from a backup; `maestro cost budget recount` counts the usage anew",
        code="budget-counter-lost",
    )


def _corrupt(path: Path) -> CostError:
    return CostError(
        "the file of the budget counters is damaged and was left as it is",
        place=str(path),
        remedy="move it away with its -wal file; `maestro cost budget recount` counts the usage anew",
        code="budget-counter-corrupt",
    )
