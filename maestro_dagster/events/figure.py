"""What the inbox and the outbox tell in figures: what came in, what waits, what the forges were told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maestro_dagster.database.interface import Connection, Database
from maestro_dagster.events.report_call import NO_RELEASE

_CHUNK = 400


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many wait, and since when the oldest does (seconds since the epoch); None when none does."""

    count: int
    since: float | None


def count_events(connection: Connection) -> dict[tuple[str, str], int]:
    """Events ever taken in, by (source, kind)."""
    rows = connection.execute("SELECT source, kind, count(*) FROM event GROUP BY source, kind")
    return {(source, kind or "push"): int(count) for source, kind, count in rows}


def read_waiting_events(connection: Connection) -> Waiting:
    count, since = connection.execute(
        "SELECT count(*), min(received_at) FROM event WHERE state = 'pending'"
    ).fetchone()
    return Waiting(int(count), since)


def read_received(database: Database, event_ids: Sequence[str]) -> dict[str, float]:
    """When these events came in, by id; those that are not known are left out."""
    found: dict[str, float] = {}
    for start in range(0, len(event_ids), _CHUNK):
        part = event_ids[start : start + _CHUNK]
        query = f"SELECT event_id, received_at FROM event WHERE event_id IN ({', '.join('?' * len(part))})"  # noqa: S608
        found.update(database.run_read(lambda c, q=query, p=part: dict(c.execute(q, p).fetchall())))  # type: ignore[misc]
    return found


def count_reports(connection: Connection) -> dict[tuple[str, str], int]:
    """Reports by (repository, outcome): delivered (each revision once), given-up."""
    rows = connection.execute(
        "SELECT repository, coalesce(sum(sent), 0), sum(CASE WHEN state = 'given-up' THEN 1 ELSE 0 END)"
        " FROM report GROUP BY repository"
    )
    found: dict[tuple[str, str], int] = {}
    for repository, sent, given_up in rows:
        found[repository, "delivered"] = int(sent)
        found[repository, "given-up"] = int(given_up)
    return found


def read_waiting_reports(connection: Connection) -> Waiting:
    """Without evidence whose tag has no release yet: most tags never get one, and nothing is wrong then."""
    count, since = connection.execute(
        "SELECT count(*), min(changed_at) FROM report"
        " WHERE state = 'due' AND (error IS NULL OR error NOT LIKE ?)",
        (f'%"{NO_RELEASE}"%',),
    ).fetchone()
    return Waiting(int(count), since)


def age(waiting: Waiting, clock: Callable[[], float] = time.time) -> float:
    """Seconds that the oldest has waited."""
    return 0.0 if waiting.since is None else max(0.0, clock() - waiting.since)


def name_forges(
    counts: Mapping[tuple[str, str], int], forges: Mapping[str, str]
) -> dict[tuple[str, str], int]:
    """Counts by forge in place of repository; `forges` names the forge of each."""
    found: dict[tuple[str, str], int] = {}
    for (repository, outcome), count in counts.items():
        key = (forges.get(repository, "unknown"), outcome)
        found[key] = found.get(key, 0) + count
    return found
