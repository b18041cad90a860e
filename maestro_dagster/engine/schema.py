"""The journal's tables, and how its file is opened.

The journal is one SQLite file that several processes share: WAL, `synchronous=FULL`, short transactions.
Whatever is wrong with it becomes a JournalError that names the remedy; nothing is ever deleted or
recreated here, because the file is the only record of what was done.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maestro_dagster.database.interface import Wording
from maestro_dagster.database.owner import Owner
from maestro_dagster.database.postgres import PostgresDatabase
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.engine.disk import has_little_space
from maestro_dagster.errors import JournalError

VERSION = 1
APPLICATION = 0x4D535452  # "MSTR": tells the file apart from other SQLite files
_BUSY_MS = 30_000
_HEADER = b"SQLite format 3\x00"
_HEADER_SIZE = 100
_QUICKLY_CHECKED = 4 * 1024 * 1024  # bytes that are read through in a few milliseconds

_TABLES = """
CREATE TABLE flow (digest TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE run (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id TEXT NOT NULL UNIQUE,
  flow TEXT NOT NULL, flow_version TEXT NOT NULL, flow_digest TEXT NOT NULL REFERENCES flow,
  params TEXT NOT NULL, git TEXT NOT NULL, partition_key TEXT, cause TEXT NOT NULL, actor TEXT NOT NULL,
  budget_nano INTEGER, region TEXT, reuse_from TEXT, selection TEXT,
  status TEXT NOT NULL, requested_at REAL NOT NULL, started_at REAL, finished_at REAL,
  decision TEXT, error TEXT, cancel TEXT, dagster_runs TEXT NOT NULL DEFAULT '[]',
  record TEXT, evidence_path TEXT, evidence_digest TEXT
);
CREATE INDEX run_status ON run (status, seq);
CREATE TABLE step (
  run_id TEXT NOT NULL, step TEXT NOT NULL, iteration INTEGER NOT NULL,
  status TEXT NOT NULL, input_digest TEXT, config_digest TEXT, attempts INTEGER NOT NULL DEFAULT 0,
  owner TEXT, uses TEXT NOT NULL, started_at REAL, finished_at REAL, duration_ms INTEGER NOT NULL DEFAULT 0,
  digest TEXT, media_type TEXT, size INTEGER, cost_nano INTEGER, tokens INTEGER NOT NULL DEFAULT 0,
  facts TEXT NOT NULL DEFAULT '{}', preview TEXT NOT NULL DEFAULT '', error TEXT, reason TEXT,
  asset INTEGER NOT NULL DEFAULT 1, chosen TEXT, reused_from TEXT, detail TEXT NOT NULL DEFAULT '{}',
  claim BLOB,
  PRIMARY KEY (run_id, step, iteration)
) WITHOUT ROWID;
CREATE TABLE attempt (
  run_id TEXT NOT NULL, step TEXT NOT NULL, iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
  owner TEXT NOT NULL, input_digest TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL,
  outcome TEXT, error TEXT,
  PRIMARY KEY (run_id, step, iteration, attempt)
) WITHOUT ROWID;
CREATE TABLE rate (key TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX rate_key ON rate (key, at);
CREATE TABLE lease (
  run_id TEXT NOT NULL, owner TEXT NOT NULL, process TEXT NOT NULL, exclusive INTEGER NOT NULL,
  expires REAL NOT NULL,
  PRIMARY KEY (run_id, owner)
) WITHOUT ROWID;
"""


def open_file(path: Path) -> SqliteDatabase:
    """The journal in a file of its own."""
    return SqliteDatabase(path, connect=_open_writer, connect_reader=open_reader, translate=translate)


def open_server(url: str, owner: Owner) -> PostgresDatabase:
    """The journal of the project of `owner` in PostgreSQL; connected when it is used."""
    wording = Wording(JournalError, "the journal", "journal")
    return PostgresDatabase(url, "journal", owner=owner, wording=wording)


def _open_writer(path: Path) -> sqlite3.Connection:
    connection = open_connection(path)
    try:
        check_soundness(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def open_connection(path: Path) -> sqlite3.Connection:
    """A connection to a journal of this version, made when there is none. Raises JournalError."""
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_once(path)
        connection = sqlite3.connect(
            path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection to look with: as `open_connection`, or without writing where nothing can be written.

    On a read-only or full disk SQLite cannot make the files that go with a WAL. Without a WAL that holds
    anything the file itself is the whole truth and is read as it stands.
    """
    try:
        return open_connection(path)
    except JournalError as error:
        if error.error_code not in {"journal-unavailable", "disk-full"} or not path.is_file():
            raise
        if path.with_name(path.name + "-wal").exists() and path.with_name(path.name + "-wal").stat().st_size:
            way = "mode=ro"
        else:
            way = "mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{way}", uri=True, check_same_thread=False
            )
            connection.isolation_level = None
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error:
            raise error from None
        if version != VERSION:
            connection.close()
            raise
        return connection


def check_soundness(connection: sqlite3.Connection, path: Path) -> None:
    """Before the first write of a process: damage is noticed while everything can still be restored.

    A large journal is not read through on every command; `maestro doctor` does that.
    """
    with plain_errors(path):
        if path.stat().st_size > _QUICKLY_CHECKED:
            return
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise corrupt(path)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors in the operator's words."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error


def check_journal(path: Path) -> list[str]:
    """What SQLite's own check finds wrong, empty when nothing. Reads the whole file."""
    connection = open_connection(path)
    try:
        with plain_errors(path):
            try:
                found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(20)")]
            except sqlite3.DatabaseError as error:  # so damaged that the check itself cannot go on
                found = [str(error)]
    finally:
        connection.close()
    return [] if found == ["ok"] else found


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"the journal has version {version}, this Maestro knows versions up to {VERSION}",
            place=str(path),
            remedy="install the Maestro that wrote it, or set MAESTRO_HOME to another folder",
            code="journal-newer",
        )
    if application not in {0, APPLICATION} or (version and application != APPLICATION):
        raise JournalError(
            "this SQLite file is no journal of Maestro",
            place=str(path),
            remedy="set MAESTRO_HOME to another folder",
            code="journal-foreign",
        )
    if version == 0:
        _create(connection, path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was faster
            _refuse_foreign(connection, path)
            for statement in _TABLES.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION}")
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(
            "this SQLite file holds tables of something else",
            place=str(path),
            remedy="set MAESTRO_HOME to another folder",
            code="journal-foreign",
        )


_checking = threading.Lock()
_checked: set[tuple[int, str]] = set()


def _check_once(path: Path) -> None:
    """Looks at the file before this process opens it for the first time, and never again.

    Closing any descriptor of a file drops all of the process's locks on it (fcntl(2)): beside an open
    connection that would let another process delete the WAL. See
    https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    with _checking:
        key = (os.getpid(), os.path.realpath(path))
        if key not in _checked:
            _check_length(path)
            _checked.add(key)


def _check_length(path: Path) -> None:
    """A file that lost its end opens without complaint and fails much later; better now.

    The header holds page size and page count (https://www.sqlite.org/fileformat.html#the_database_header);
    with a WAL beside it the count may be ahead of the file, and SQLite puts that right itself.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return
    wal = path.with_name(path.name + "-wal")
    if not size:
        # An empty file is a new journal, but not where runs have left their evidence.
        if (wal.exists() and wal.stat().st_size) or any((path.parent / "evidence").glob("*.zip")):
            raise corrupt(path)
        return
    page = int.from_bytes(header[16:18], "big")
    promised = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    whole = len(header) == _HEADER_SIZE and header.startswith(_HEADER)
    if not whole or (size < promised and not (wal.exists() and wal.stat().st_size)):
        raise corrupt(path)


def corrupt(place: Path | str) -> JournalError:
    return JournalError(
        "the journal is damaged and was left as it is",
        place=str(place),
        remedy="restore it with its -wal file from a backup, or rescue what is left with "
        "`sqlite3 journal.sqlite .recover`; the evidence folder and the artifacts are not touched",
        code="journal-corrupt",
    )


def _full(path: Path) -> JournalError:
    return JournalError(
        "the disk is full, the journal could not be written",
        place=str(path),
        remedy="free some space, then run `maestro retry`; what was acknowledged is kept",
        code="disk-full",
    )


def translate(error: Exception, path: Path) -> JournalError:
    """SQLite's and the system's errors in the operator's words."""
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return _full(path)
        return JournalError(
            f"the journal cannot be opened: {error.strerror}",
            place=str(path),
            remedy="check the owner and mode of the state folder",
            code="journal-unavailable",
        )
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "decode to UTF-8" in str(error):
        return corrupt(path)
    if name.startswith("SQLITE_FULL") or (
        name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and has_little_space(path.parent)
    ):
        return _full(path)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalError(
            f"the journal was busy for {_BUSY_MS // 1000} s",
            place=str(path),
            remedy="look for a stopped Maestro process that holds it",
            code="journal-busy",
        )
    return JournalError(
        f"the journal cannot be used: {error}",
        place=str(path),
        remedy="check the owner and mode of the state folder, and the disk",
        code="journal-unavailable",
    )
