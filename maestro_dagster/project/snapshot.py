"""Consistent copies of SQLite files that other processes write to.

All files are pinned to one moment before the first is copied: a read transaction in WAL mode keeps its view
for as long as it lasts, and no writer waits for it. SQLite's backup API then copies that view
(https://www.sqlite.org/c3ref/backup_finish.html).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from maestro_dagster.errors import ProjectError

SUFFIXES = (".sqlite", ".db")
BESIDE = ("-wal", "-shm", "-journal")  # of SQLite, beside its files
_WAIT = 60.0  # seconds for a file that is not in WAL mode


@contextmanager
def pin_databases(paths: Sequence[Path]) -> Iterator[dict[Path, sqlite3.Connection]]:
    """Connections that see their files as of now, pinned in the order given. Raises ProjectError."""
    with ExitStack() as stack:
        pinned: dict[Path, sqlite3.Connection] = {}
        for path in paths:
            with _plain_errors(path):
                connection = stack.enter_context(closing(sqlite3.connect(path, timeout=_WAIT)))
                connection.isolation_level = None
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # takes the view
                pinned[path] = connection
        yield pinned


def copy_database(source: sqlite3.Connection, path: Path, target: Path) -> None:
    """Writes what a pinned connection sees to a new file. `path` is its file, for errors."""
    with _plain_errors(path), closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it


def check_database(path: Path) -> None:
    """Raises ProjectError (`backup-database`) for a file that SQLite finds damaged."""
    with _plain_errors(path), closing(sqlite3.connect(path)) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise _broken(path, str(found))


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> ProjectError:
    return ProjectError(
        f"a database of the project cannot be copied: {why}",
        place=str(path),
        remedy="`maestro doctor` says what is wrong with it; a damaged file is not backed up",
        code="backup-database",
    )
