"""Events as an operator sees them: which wait, which started runs, which were dropped.

Dropping takes nothing away. The row stays, with who dropped it and when among its facts, and its id is known
for good: a forge that sends it again starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maestro_dagster.database.interface import Connection, Database
from maestro_dagster.errors import EventError
from maestro_dagster.events.inbox import COLUMNS, read_row
from maestro_dagster.events.interface import RepositoryEvent, write_facts

STATES: Mapping[str, str] = {"waiting": "pending", "requested": "requested", "dropped": "dropped"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the inbox. `state` is one of STATES; `run_ids` are the runs that were requested for it."""

    event: RepositoryEvent
    state: str
    run_ids: tuple[str, ...]


def list_entries(
    database: Database, state: str | None = None, name: str | None = None, limit: int = 100
) -> list[Entry]:
    """The newest first; of one state, or of the repository of one name, where those are given."""
    where = [("state = ?", STATES[state])] if state else []
    where += [("name = ?", name)] if name else []
    clause = f"WHERE {' AND '.join(text for text, _ in where)}" if where else ""
    query = f"SELECT {COLUMNS}, state, run_ids FROM event {clause} ORDER BY sequence DESC LIMIT ?"  # noqa: S608
    values = (*(value for _, value in where), limit)
    words = {stored: word for word, stored in STATES.items()}
    rows = database.run_read(lambda c: c.execute(query, values).fetchall())
    return [
        Entry(read_row(row[:-2]), words.get(row[-2], row[-2]), tuple(json.loads(row[-1]))) for row in rows
    ]


def count_states(database: Database) -> dict[str, int]:
    """How many events are in each of STATES."""
    rows = database.run_read(
        lambda c: c.execute("SELECT state, count(*) FROM event GROUP BY state").fetchall()
    )
    found = {state: int(count) for state, count in rows}
    return {word: found.get(stored, 0) for word, stored in STATES.items()}


def list_waiting(database: Database, name: str | None = None) -> list[str]:
    """The ids of all events that wait."""
    where, values = (" AND name = ?", (name,)) if name else ("", ())
    query = f"SELECT event_id FROM event WHERE state = 'pending'{where} ORDER BY sequence"  # noqa: S608
    return [row[0] for row in database.run_read(lambda c: c.execute(query, values).fetchall())]


def drop_events(database: Database, event_ids: Sequence[str], by: str, now: float) -> None:
    """They wait no more, and start nothing. Raises EventError (`event-unknown`), and then drops none."""

    def work(connection: Connection) -> None:
        for event_id in event_ids:
            _drop(connection, event_id, {"by": by, "at": now})

    database.run_write(work)


def _drop(connection: Connection, event_id: str, dropped: Mapping[str, object]) -> None:
    query = "SELECT facts FROM event WHERE event_id = ? AND state = 'pending'"
    row = connection.execute(query, (event_id,)).fetchone()
    if row is None:
        raise EventError(
            "no event of that id waits",
            place=f"event {event_id[:64]!r}",
            remedy="`maestro events` lists those that wait; `maestro cancel` ends what they started",
            code="event-unknown",
        )
    facts = write_facts({**json.loads(row[0]), "dropped": dropped})
    connection.execute("UPDATE event SET state = 'dropped', facts = ? WHERE event_id = ?", (facts, event_id))
