"""The durable list of events: drops in a folder, moved into a table, each known by its event id.

    inbox/tmp/   being written by a hook
    inbox/new/   whole events, one JSON file each
    inbox/bad/   what could not be read or is no regular file, each with a `.reason` beside it

A drop is deleted only after its row is committed; a crash between the two finds the row again by its
event id. Webhooks come in by `accept`. Rows are `pending` until runs were requested for them, or it was
noted that no flow wants the event (`requested`), or somebody let go of it (`dropped`, waiting.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.database.interface import Connection, Database, Wording
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.errors import EventError, MaestroError
from maestro_dagster.events.drop import read_drop
from maestro_dagster.events.interface import RepositoryEvent, check_event, write_facts

_BATCH = 1000
_LONGEST_NAME = 200  # bytes, so that a number and `.reason` fit behind it
_TORN_AFTER_SECONDS = 3600
TABLES = """
CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    ref TEXT NOT NULL,
    received_at REAL NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    run_ids TEXT NOT NULL DEFAULT '[]',
    kind TEXT NOT NULL DEFAULT '',
    facts TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS event_pending ON event (sequence) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS seen_ref (
    repository TEXT NOT NULL,
    ref TEXT NOT NULL,
    sha TEXT NOT NULL,
    moves INTEGER NOT NULL,
    PRIMARY KEY (repository, ref)
) WITHOUT ROWID;
"""
COLUMNS = "event_id, repository, before, after, ref, received_at, source, name, kind, facts"
_WIDTH = COLUMNS.count(",") + 1
_ROWS = 100  # a statement
_LATER_COLUMNS = {"kind": "''", "facts": "'{}'"}  # those that a table of release 0.1 lacks, with defaults


class InboxWording(Wording):
    """Whatever is wrong with the database, the inbox has one code for it."""

    def fault(self, kind: str, what: str, place: str, remedy: str) -> MaestroError:
        del kind
        return _unusable(what, place, remedy)


WORDING = InboxWording(EventError, "the inbox", "inbox")


class Inbox:
    """Its methods may be called from several threads; several processes may have the same inbox.

    Args:
        folder: the maildir above, of this machine.
        database: its SQLite file, or a database with the tables below.

    Raises EventError (`inbox-unusable`), as every method does.

    """

    def __init__(self, folder: Path, database: Path | Database) -> None:
        self.folder = folder
        self.database: Database = (
            SqliteDatabase(database, tables=TABLES, wording=WORDING)
            if isinstance(database, Path)
            else database
        )
        try:
            for part in ("new", "tmp", "bad"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._broken(error) from error
        if self.database.kind == "sqlite":
            self.database.run_write(_add_later_columns)
        self._recover_torn()

    def ingest(self) -> tuple[RepositoryEvent, ...]:
        """Move all drops into the table; the events that were new, in the order in which they came."""
        try:
            with os.scandir(self.folder / "new") as entries:
                names = [entry.name for entry in entries]
            if not names:
                return ()
            found: list[RepositoryEvent] = []
            for start in range(0, len(names), _BATCH):
                found += self._ingest_batch(names[start : start + _BATCH])
        except OSError as error:
            raise self._broken(error) from error
        return tuple(found)

    def accept(self, events: Iterable[RepositoryEvent]) -> tuple[bool, ...]:
        """Put events of a webhook into the table: durable when it returns. Which of them were new.

        Raises EventError `event-malformed`, and then takes none of them.
        """
        checked = tuple(events)
        for event in checked:
            check_event(event)
        if not checked:
            return ()
        return self.database.run_write(lambda connection: _insert(connection, checked))

    def insert(
        self, connection: Connection, events: Iterable[RepositoryEvent]
    ) -> tuple[RepositoryEvent, ...]:
        """Put events that came by another way into the table, within a transaction; those that were new."""
        given = tuple(events)
        return tuple(event for event, new in zip(given, _insert(connection, given), strict=True) if new)

    def pending(self, limit: int = 10_000) -> tuple[RepositoryEvent, ...]:
        """Events without a request yet, oldest first."""
        return self._select("WHERE state = 'pending' ORDER BY sequence LIMIT ?", limit)

    def recent(self, limit: int = 100) -> tuple[RepositoryEvent, ...]:
        """The newest events of any state, newest first."""
        return self._select("ORDER BY sequence DESC LIMIT ?", limit)

    def mark_requested(self, event_id: str, run_ids: Sequence[str]) -> None:
        """Note that these runs were requested for the event (none: no flow wanted it)."""
        self.mark_all_requested({event_id: run_ids})

    def mark_all_requested(self, runs: Mapping[str, Sequence[str]]) -> None:
        """As `mark_requested` for many events, with one wait for the disk."""
        rows = [(json.dumps(list(run_ids)), event_id) for event_id, run_ids in runs.items()]
        sql = "UPDATE event SET state = 'requested', run_ids = ? WHERE event_id = ?"
        if rows:
            self.database.run_write(lambda connection: connection.executemany(sql, rows))

    def run_ids(self, event_id: str) -> tuple[str, ...]:
        """The runs that were requested for the event."""
        sql = "SELECT run_ids FROM event WHERE event_id = ?"
        row = self.database.run_read(lambda connection: connection.execute(sql, (event_id,)).fetchone())
        return tuple(json.loads(row[0])) if row else ()

    def close(self) -> None:
        self.database.close()

    def _ingest_batch(self, names: Sequence[str]) -> list[RepositoryEvent]:
        drops: list[tuple[float, int, Path, RepositoryEvent]] = []
        for name in names:
            path = self.folder / "new" / name
            try:
                event, order = read_drop(path)
            except EventError as error:
                self._set_aside(path, error)
                continue
            except OSError:
                continue  # another process took it, or the disk has a bad moment: the next pass looks again
            drops.append((event.received_at, order, path, event))
        drops.sort(key=lambda drop: drop[:2])
        events = [event for _, _, _, event in drops]
        fresh = self.database.run_write(lambda connection: list(self.insert(connection, events)))
        for _, _, path, _ in drops:
            with contextlib.suppress(OSError):  # one that stays is known by its event id
                path.unlink()
        return fresh

    def _set_aside(self, path: Path, error: EventError) -> None:
        """A rename moves whatever it is; what cannot be moved stays, and holds nobody else up."""
        target = self.folder / "bad" / path.name
        if os.path.lexists(target) or len(os.fsencode(path.name)) > _LONGEST_NAME:
            short = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
            target = target.with_name(f"{short}.{time.time_ns()}")
        with contextlib.suppress(OSError):
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            reason = target.with_name(f"{target.name}.reason")
            reason.write_text(f"{error}\n", encoding="utf-8", errors="replace")

    def _recover_torn(self) -> None:
        """What a hook wrote and could not rename: a push happened, so a whole one counts."""
        limit = time.time() - _TORN_AFTER_SECONDS
        try:
            paths = list((self.folder / "tmp").iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._broken(error) from error
        for path in paths:
            with contextlib.suppress(OSError):  # taken by another process, or it cannot be moved
                if path.lstat().st_mtime < limit:
                    path.rename(self.folder / "new" / path.name)

    def _select(self, clause: str, limit: int) -> tuple[RepositoryEvent, ...]:
        sql = f"SELECT {COLUMNS} FROM event {clause}"  # noqa: S608 - constants of this file
        rows = self.database.run_read(lambda connection: connection.execute(sql, (limit,)).fetchall())
        return tuple(read_row(row) for row in rows)

    def _broken(self, error: OSError) -> EventError:
        remedy = "see that the disk has room and the folder is writable; nothing of it was lost"
        return _unusable(f"cannot be used: {error}", str(self.folder), remedy)


def _add_later_columns(connection: Connection) -> None:
    """The SQLite file of an earlier release is read on."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(event)")}
    for name, default in _LATER_COLUMNS.items():
        if name not in known:
            connection.execute(f"ALTER TABLE event ADD COLUMN {name} TEXT NOT NULL DEFAULT {default}")


def read_row(row: Sequence[Any]) -> RepositoryEvent:
    """The event of a row of COLUMNS."""
    named = dict(zip(COLUMNS.split(", "), row, strict=True))
    return RepositoryEvent(**{**named, "facts": json.loads(named["facts"])})


def _insert(connection: Connection, events: Sequence[RepositoryEvent]) -> tuple[bool, ...]:
    """Which of them were new. Many a statement: a database may be far away."""
    new: set[str] = set()
    for start in range(0, len(events), _ROWS):
        part = events[start : start + _ROWS]
        row = f"({', '.join('?' * _WIDTH)}, 'pending')"
        rows = connection.execute(
            f"INSERT INTO event ({COLUMNS}, state)"  # noqa: S608 - constants of this file
            f" VALUES {', '.join([row] * len(part))} ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            [value for event in part for value in _row_of(event)],
        )
        new.update(event_id for (event_id,) in rows.fetchall())
    found = []
    for event in events:  # the second of two with one id is not new
        found.append(event.event_id in new)
        new.discard(event.event_id)
    return tuple(found)


def _row_of(event: RepositoryEvent) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        event.event_id,
        event.repository,
        event.before,
        event.after,
        event.ref,
        event.received_at,
        event.source,
        event.name,
        event.kind,
        write_facts(event.facts),
    )


def _unusable(what: str, place: str, remedy: str) -> EventError:
    return EventError(f"the inbox {what}", place=place, remedy=remedy, code="inbox-unusable")
