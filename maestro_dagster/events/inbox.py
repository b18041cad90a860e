"""The durable list of pushes: drops in a folder, moved into a table, each known by its event id.

    inbox/tmp/   being written by a hook
    inbox/new/   whole events, one JSON file each
    inbox/bad/   what could not be read or is no regular file, each with a `.reason` beside it

A drop is deleted only after its row is committed; a crash between the two finds the row again by its
event id. Rows are `pending` until a run was requested for them, or `ignored` (a deleted ref).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.errors import EventError
from maestro_dagster.events.interface import EVENT_ID, SHA, PushEvent

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NEVER_READABLE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM})
_BATCH = 1000
_MAX_DROP = 64 * 1024
_LONGEST_NAME = 200  # bytes, so that a number and `.reason` fit behind it
_TORN_AFTER_SECONDS = 3600
_SCHEMA = """
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
    run_ids TEXT NOT NULL DEFAULT '[]'
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
_COLUMNS = "event_id, repository, before, after, ref, received_at, source, name"


class Inbox:
    """One per process; its methods may be called from several threads.

    Args:
        folder: the maildir above.
        database: its SQLite file.

    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.database = database
        self._lock = threading.RLock()
        try:
            for part in ("new", "tmp", "bad"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            database.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                database, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error
        self._recover_torn()

    def ingest(self) -> tuple[PushEvent, ...]:
        """Move all drops into the table; the events that were new, in the order in which they came."""
        try:
            with os.scandir(self.folder / "new") as entries:
                names = [entry.name for entry in entries]
            if not names:
                return ()
            found: list[PushEvent] = []
            for start in range(0, len(names), _BATCH):
                found += self._ingest_batch(names[start : start + _BATCH])
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error
        return tuple(found)

    def insert(self, connection: sqlite3.Connection, events: Iterable[PushEvent]) -> tuple[PushEvent, ...]:
        """Put events that came by another way into the table, within a transaction; those that were new."""
        return tuple(event for event in events if _insert(connection, event))

    def pending(self, limit: int = 10_000) -> tuple[PushEvent, ...]:
        """Events without a request yet, oldest first."""
        return self._select("WHERE state = 'pending' ORDER BY sequence LIMIT ?", limit)

    def recent(self, limit: int = 100) -> tuple[PushEvent, ...]:
        """The newest events of any state, newest first."""
        return self._select("ORDER BY sequence DESC LIMIT ?", limit)

    def mark_requested(self, event_id: str, run_ids: Sequence[str]) -> None:
        """Note that these runs were requested for the event (none: no flow wanted it)."""
        self.mark_all_requested({event_id: run_ids})

    def mark_all_requested(self, runs: Mapping[str, Sequence[str]]) -> None:
        """As `mark_requested` for many events, with one wait for the disk."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE event SET state = 'requested', run_ids = ? WHERE event_id = ?",
                [(json.dumps(list(run_ids)), event_id) for event_id, run_ids in runs.items()],
            )

    def run_ids(self, event_id: str) -> tuple[str, ...]:
        """The runs that were requested for the event."""
        with self._lock:
            row = self._connection.execute(
                "SELECT run_ids FROM event WHERE event_id = ?", (event_id,)
            ).fetchone()
        return tuple(json.loads(row[0])) if row else ()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; durable when the block has ended."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _ingest_batch(self, names: Sequence[str]) -> list[PushEvent]:
        drops: list[tuple[float, int, Path, PushEvent]] = []
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
        with self.transaction() as connection:
            fresh = [event for _, _, _, event in drops if _insert(connection, event)]
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

    def _select(self, clause: str, limit: int) -> tuple[PushEvent, ...]:
        try:
            with self._lock:
                rows = self._connection.execute(
                    f"SELECT {_COLUMNS} FROM event {clause}",  # noqa: S608 - constants of this file
                    (limit,),
                ).fetchall()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return tuple(PushEvent(*row) for row in rows)

    def _broken(self, error: Exception) -> EventError:
        return EventError(
            f"the inbox cannot be used: {error}",
            place=str(self.database if isinstance(error, sqlite3.Error) else self.folder),
            remedy="see that the disk has room and the folder is writable; nothing of it was lost",
            code="inbox-unusable",
        )


def read_drop(path: Path) -> tuple[PushEvent, int]:
    """One drop and its place within its push; it was received when the file was last written.

    Raises EventError `drop-malformed` for what will never be one, OSError for what may be later.
    """
    data, received_at = _read_regular(path)
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is no JSON: {error}", path) from error
    keys = ("event_id", "repository", "before", "after", "ref")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in keys):
        raise _malformed(f"it lacks one of {', '.join(keys)}", path)
    if not EVENT_ID.fullmatch(found["event_id"]):
        raise _malformed("its event_id is none", path)
    if not all(SHA.fullmatch(found[key]) for key in ("before", "after")):
        raise _malformed("before and after are no object names", path)
    if not found["ref"].startswith("refs/") or _CONTROL.search(found["ref"]):
        raise _malformed("its ref is none", path)
    if any(_CONTROL.search(_text(found.get(key))) for key in ("repository", "name")):
        raise _malformed("its repository or name has characters that no path and no text holds", path)
    order = found.get("order", 0)
    event = PushEvent(
        **{key: found[key] for key in keys},
        received_at=received_at,
        name=_text(found.get("name")),
    )
    return event, order if isinstance(order, int) else 0


def _read_regular(path: Path) -> tuple[bytes, float]:
    """Content and time of a regular file. Never follows a link, and never waits for a pipe's other end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NEVER_READABLE:
            raise
        raise _malformed(f"it cannot be opened as a file: {error.strerror}", path) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _malformed("it is no regular file", path)
        if status.st_size > _MAX_DROP:
            raise _malformed(f"it is larger than {_MAX_DROP} bytes", path)
        data = os.read(handle, _MAX_DROP + 1)
    finally:
        os.close(handle)
    return data, status.st_mtime


def _insert(connection: sqlite3.Connection, event: PushEvent) -> bool:
    row = connection.execute(
        f"INSERT OR IGNORE INTO event ({_COLUMNS}, state)"  # noqa: S608 - constants of this file
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.event_id,
            event.repository,
            event.before,
            event.after,
            event.ref,
            event.received_at,
            event.source,
            event.name,
            "ignored" if event.deleted else "pending",
        ),
    )
    return row.rowcount > 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _malformed(fact: str, path: Path) -> EventError:
    return EventError(
        f"the drop is malformed: {fact}",
        place=str(path),
        remedy="push again, or start a run by hand; `maestro hook install` renews the hook",
        code="drop-malformed",
    )
