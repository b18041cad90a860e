"""What the forges shall show, durable until they show it.

One row is one place of a forge (a status, a comment, a release's file) with how it should look (`body`),
which `revision` of that this is, and which one the forge has (`sent`). A sender claims a row for a while, so
that of many processes one sends it; a claim whose process died runs out. Of a row whose body changed
meanwhile the newest is sent next. A row ends as `sent`, as `given-up`, or as `no-release`: evidence for a
tag of which nobody made a release.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maestro_dagster.database.interface import Connection, Database, Wording
from maestro_dagster.errors import EventError
from maestro_dagster.events.report import Kind, Wish
from maestro_dagster.events.report_call import NO_RELEASE

WORDING = Wording(EventError, "the outbox", "outbox")
TABLES = """
CREATE TABLE IF NOT EXISTS report (
    target TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    revision BIGINT NOT NULL,
    sent BIGINT NOT NULL,
    known TEXT NOT NULL,
    tries BIGINT NOT NULL,
    unsure BIGINT NOT NULL,
    state TEXT NOT NULL,
    due_at DOUBLE PRECISION NOT NULL,
    changed_at DOUBLE PRECISION NOT NULL,
    sent_at DOUBLE PRECISION,
    claimed_until DOUBLE PRECISION NOT NULL,
    owner TEXT NOT NULL,
    error TEXT
);
CREATE INDEX IF NOT EXISTS report_due ON report (due_at) WHERE state = 'due';
CREATE TABLE IF NOT EXISTS watched_run (
    run_id TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    mark TEXT NOT NULL,
    finished BIGINT NOT NULL,
    noted_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX IF NOT EXISTS watched_run_open ON watched_run (noted_at) WHERE finished = 0;
"""
_COLUMNS = (
    "target, repository, kind, body, revision, sent, known, tries, unsure, state, changed_at, sent_at, error,"
    " due_at"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. `state` is due, sent, given-up or no-release. `unsure`: a try may have arrived.

    Times are seconds since the epoch; `due_at` is the next try of a row that is due.
    """

    target: str
    repository: str
    kind: Kind
    body: Mapping[str, Any]
    revision: int
    sent: int
    known: Mapping[str, Any]
    tries: int
    unsure: bool
    state: str
    changed_at: float
    sent_at: float | None
    error: Mapping[str, str] | None
    due_at: float


class Outbox:
    """Raises EventError (`outbox-...`, `disk-full`) where its database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def database(self) -> Database:
        """To look at: what waits, and what was told."""
        return self._database

    def put(self, wishes: Sequence[Wish], watched: Mapping[str, tuple[str, bool]], now: float) -> int:
        """Wishes and, for the runs that they tell of, (mark, whether that was all): in one transaction.

        How many of the wishes changed something.
        """

        def work(connection: Connection) -> int:
            changed = sum(_put(connection, wish, now) for wish in wishes)
            for run_id, (mark, finished) in watched.items():
                connection.execute(
                    "UPDATE watched_run SET mark = ?, finished = ? WHERE run_id = ?",
                    (mark, int(finished), run_id),
                )
            return changed

        return self._database.run_write(work)

    def watch(self, runs: Iterable[tuple[str, str]], now: float) -> int:
        """(run_id, name of the repository) of runs that shall be told of; how many were not known."""
        rows = list(runs)
        if not rows:
            return 0

        def work(connection: Connection) -> int:
            return sum(
                connection.execute(
                    "INSERT INTO watched_run (run_id, repository, mark, finished, noted_at)"
                    " VALUES (?, ?, '', 0, ?) ON CONFLICT (run_id) DO NOTHING",
                    (run_id, repository, now),
                ).rowcount
                for run_id, repository in rows
            )

        return self._database.run_write(work)

    def watched(self, limit: int = 10_000) -> list[tuple[str, str, str, float]]:
        """(run_id, repository, mark, noted at) of the runs that may still change, oldest first."""
        query = (
            "SELECT run_id, repository, mark, noted_at FROM watched_run WHERE finished = 0"
            " ORDER BY noted_at, run_id LIMIT ?"
        )
        return self._database.run_read(
            lambda c: [(row[0], row[1], row[2], row[3]) for row in c.execute(query, (limit,))]
        )

    def known_runs(self, run_ids: Sequence[str]) -> set[str]:
        """Which of the runs are, or were, watched."""
        if not run_ids:
            return set()
        query = f"SELECT run_id FROM watched_run WHERE run_id IN ({', '.join('?' * len(run_ids))})"  # noqa: S608
        return self._database.run_read(lambda c: {row[0] for row in c.execute(query, run_ids)})

    def has_due(self, now: float) -> bool:
        query = "SELECT 1 FROM report WHERE state = 'due' AND due_at <= ? AND claimed_until <= ? LIMIT 1"
        return self._database.run_read(lambda c: c.execute(query, (now, now)).fetchone() is not None)

    def claim(self, owner: str, limit: int, now: float, seconds: float) -> list[Entry]:
        """Rows that are to be sent now, the longest due first; nobody else gets them for so long."""
        query = (
            f"SELECT {_COLUMNS} FROM report WHERE state = 'due' AND due_at <= ? AND claimed_until <= ?"  # noqa: S608
            " ORDER BY due_at, target LIMIT ?"
        )

        def work(connection: Connection) -> list[Entry]:
            found = [_entry(row) for row in connection.execute(query, (now, now, limit))]
            for entry in found:
                connection.execute(
                    # Unsure until it is settled: after a crash one knows that it may have arrived.
                    "UPDATE report SET owner = ?, claimed_until = ?, unsure = 1 WHERE target = ?",
                    (owner, now + seconds, entry.target),
                )
            return found

        return self._database.run_write(work)

    def settle(self, owner: str, entry: Entry, known: Mapping[str, Any], now: float) -> None:
        """The forge shows the entry's revision. What was wished for meanwhile is due."""
        self._database.run_write(
            lambda c: (
                c.execute(
                    "UPDATE report SET sent = ?, known = ?, tries = 0, unsure = 0, error = NULL, sent_at = ?,"
                    " claimed_until = 0, owner = '',"
                    " state = CASE WHEN revision = ? THEN 'sent' ELSE 'due' END"
                    " WHERE target = ? AND owner = ?",
                    (entry.revision, _dump(known), now, entry.revision, entry.target, owner),
                ).rowcount
            )
        )

    def postpone(
        self, owner: str, entry: Entry, error: EventError, *, due_at: float, unsure: bool, give_up: bool
    ) -> None:
        """A try failed. With `give_up` it was the last one, until something else is wished for."""
        state = _ends_as(error) if give_up else "due"
        self._database.run_write(
            lambda c: c.execute(
                "UPDATE report SET tries = tries + 1, unsure = ?,"
                " error = ?, due_at = ?, claimed_until = 0, owner = '',"
                " state = CASE WHEN revision = ? THEN ? ELSE 'due' END WHERE target = ? AND owner = ?",
                (
                    int(unsure or entry.unsure), _dump(error.to_json()), due_at, entry.revision, state,
                    entry.target, owner,
                ),
            ).rowcount
        )  # fmt: skip

    def defer(self, owner: str, repository: str, until: float) -> None:
        """The forge wants no calls for this repository before `until`; no try is counted."""
        self._database.run_write(
            lambda c: (
                c.execute(
                    "UPDATE report SET due_at = ?,"
                    " claimed_until = CASE WHEN owner = ? THEN 0 ELSE claimed_until END,"
                    " owner = CASE WHEN owner = ? THEN '' ELSE owner END"
                    " WHERE repository = ? AND state = 'due' AND due_at < ?",
                    (until, owner, owner, repository, until),
                ).rowcount
            )
        )

    def renew(self, owner: str, until: float) -> None:
        """What the owner claimed is its own for longer."""
        self._database.run_write(
            lambda c: (
                c.execute("UPDATE report SET claimed_until = ? WHERE owner = ?", (until, owner)).rowcount
            )
        )

    def release(self, owner: str) -> None:
        """Gives back all that the owner claimed and did not get to."""
        self._database.run_write(
            lambda c: (
                c.execute(
                    "UPDATE report SET claimed_until = 0, owner = '' WHERE owner = ?", (owner,)
                ).rowcount
            )
        )

    def retry(self, now: float) -> int:
        """Everything that was given up or waits for its next try is due now; how many."""
        return self._database.run_write(
            lambda c: (
                c.execute(
                    "UPDATE report SET state = 'due', due_at = ?, tries = 0, changed_at = ?"
                    " WHERE state IN ('given-up', 'no-release') OR (state = 'due' AND tries > 0)",
                    (now, now),
                ).rowcount
            )
        )

    def hurry(self, repository: str, tag: str, now: float) -> int:
        """The forge told of a release of the tag: evidence that waits for one is due now; how many."""
        target = f"release:{repository}:{tag}:"
        return self._database.run_write(
            lambda c: (
                c.execute(
                    "UPDATE report SET state = 'due', due_at = ?, changed_at = ?"
                    " WHERE substr(target, 1, ?) = ?"
                    " AND (state = 'no-release' OR (state = 'due' AND tries > 0))",
                    (now, now, len(target), target),
                ).rowcount
            )
        )

    def entries(self, limit: int = 100, state: str | None = None) -> list[Entry]:
        """The rows that changed last, newest first."""
        where, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        query = f"SELECT {_COLUMNS} FROM report {where} ORDER BY changed_at DESC, target LIMIT ?"  # noqa: S608
        return self._database.run_read(lambda c: [_entry(row) for row in c.execute(query, (*values, limit))])

    def counts(self) -> dict[str, int]:
        """How many rows stand so: `{"due", "sent", "given-up", "no-release"}`."""
        found = {"due": 0, "sent": 0, "given-up": 0, "no-release": 0}
        query = "SELECT state, count(*) FROM report GROUP BY state"
        return self._database.run_read(
            lambda c: {**found, **{row[0]: int(row[1]) for row in c.execute(query)}}
        )

    def forget(self, before: float) -> int:
        """Drops rows that have been quiet since `before`, so that the table does not grow for ever."""

        def work(connection: Connection) -> int:
            connection.execute("DELETE FROM watched_run WHERE finished = 1 AND noted_at < ?", (before,))
            return connection.execute(
                "DELETE FROM report WHERE state <> 'due' AND changed_at < ? AND claimed_until = 0", (before,)
            ).rowcount

        return self._database.run_write(work)

    def close(self) -> None:
        self._database.close()


def _put(connection: Connection, wish: Wish, now: float) -> int:
    row = connection.execute("SELECT body FROM report WHERE target = ?", (wish.target,)).fetchone()
    old = None if row is None else json.loads(row[0])
    body = wish.merge(old)
    if body is None or body == old:
        return 0
    if row is None:
        connection.execute(
            "INSERT INTO report (target, repository, kind, body, revision, sent, known, tries, unsure, state,"
            " due_at, changed_at, sent_at, claimed_until, owner, error)"
            " VALUES (?, ?, ?, ?, 1, 0, '{}', 0, 0, 'due', ?, ?, NULL, 0, '', NULL)",
            (wish.target, wish.repository, wish.kind, _dump(body), now, now),
        )
        return 1
    # A forge that has a bad time keeps its pause: `due_at` of a row that waits stays.
    connection.execute(
        "UPDATE report SET body = ?, revision = revision + 1, changed_at = ?,"
        " due_at = CASE WHEN state = 'due' AND tries > 0 THEN due_at ELSE ? END,"
        " tries = CASE WHEN state = 'due' THEN tries ELSE 0 END, state = 'due' WHERE target = ?",
        (_dump(body), now, now, wish.target),
    )
    return 1


def _ends_as(error: EventError) -> str:
    return "no-release" if error.error_code == NO_RELEASE else "given-up"


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(
        target=row[0],
        repository=row[1],
        kind=row[2],
        body=json.loads(row[3]),
        revision=int(row[4]),
        sent=int(row[5]),
        known=json.loads(row[6]),
        tries=int(row[7]),
        unsure=bool(row[8]),
        state=row[9],
        changed_at=row[10],
        sent_at=row[11],
        error=None if row[12] is None else json.loads(row[12]),
        due_at=row[13],
    )


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
