"""Whether events can come in: the files in the folder `inbox`, looked at without opening them for writing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from maestro_dagster.project.check import Finding
from maestro_dagster.project.database import inbox_file, outbox_file
from maestro_dagster.project.root import Project

_OPERATING = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_FULL")


def check_inbox(project: Project) -> Finding:
    """The inbox, and the outbox beside it. With the setting `database` both lie where the journal does."""
    if project.settings.database:
        return Finding("inbox", "ok", "events wait in the database")
    if not project.inbox.exists():
        return Finding("inbox", "ok", "no event yet")
    for name, path in (("inbox", inbox_file(project)), ("outbox", outbox_file(project))):
        if path.exists() and (fault := _examine(name, path)) is not None:
            return fault
    waiting = _count(inbox_file(project))
    return Finding("inbox", "ok", f"the inbox is sound, {waiting} events wait")


def _examine(name: str, path: Path) -> Finding | None:
    if not all(os.access(each, os.R_OK | os.W_OK) for each in (path.parent, path)):
        return Finding(
            "inbox",
            "error",
            f"the {name} cannot be written ({path}): no event comes in",
            "give this user the right to write there, or mount it for writing",
        )
    try:
        with closing(_open(path)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        if (getattr(error, "sqlite_errorname", "") or "").startswith(_OPERATING):
            return Finding(
                "inbox",
                "error",
                f"the {name} cannot be read: {error} ({path})",
                "check the owner and mode of the state folder, and the space on its disk",
            )
        found = str(error)
    if found == "ok":
        return None
    return Finding(
        "inbox",
        "error",
        f"the {name} is damaged: {found} ({path})",
        "restore it with its -wal file from a backup",
    )


def _count(path: Path) -> int:
    """0 where there is no table yet."""
    if not path.exists():
        return 0
    try:
        with closing(_open(path)) as connection:
            return int(connection.execute("SELECT count(*) FROM event WHERE state = 'pending'").fetchone()[0])
    except sqlite3.Error:
        return 0


def _open(path: Path) -> sqlite3.Connection:
    # Read-only: a doctor must not upgrade, recover or lock what it looks at.
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
