"""The spool in PostgreSQL: a row per line, for runs on any number of machines.

A source is what one writer of one run has written; its lines are numbered. Order, duplicates and removal
are those of the NDJSON spool (`costs.spool`), and a line is the same JSON. An append is one transaction,
acknowledged after its commit (`synchronous_commit = on`). A batch that is sent again because a connection
broke has the numbers that it had, so it is there once. Lines of several projects may lie in one database:
`scope` keeps them apart.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from maestro_dagster.costs.interface import Chunk, UsageEvent
from maestro_dagster.costs.line import decode_line, encode_event
from maestro_dagster.costs.postgres import UsageDatabase
from maestro_dagster.costs.spool import resolve_events
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its own name is lower case

# The source's row is locked until the lines are committed: it cannot be removed between the two.
_APPEND = """
INSERT INTO maestro.usage_source VALUES (%(id)s, %(scope)s, %(run)s)
  ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id WHERE false;
DELETE FROM maestro.usage_line WHERE source = %(id)s AND number = ANY(%(undone)s::integer[]);
INSERT INTO maestro.usage_line
  SELECT %(id)s, %(first)s + at - 1, day::date, line FROM unnest(
    string_to_array(%(days)s, ','), string_to_array(%(lines)s, E'\\n')) WITH ORDINALITY AS t(day, line, at)
  ON CONFLICT (source, number) DO NOTHING
"""
_UNSAFE = "SELECT set_config('synchronous_commit', 'off', true);"  # a crash of the server may undo it
# Each statement has a snapshot of its own: what was appended before the lock was given is seen.
_REMOVE = """
SELECT set_config('synchronous_commit', 'off', true);
SELECT FROM maestro.usage_source WHERE id = %(id)s AND scope = %(scope)s FOR UPDATE;
DELETE FROM maestro.usage_line WHERE source = %(id)s AND number <= %(until)s AND NOT EXISTS (
  SELECT FROM maestro.usage_line WHERE source = %(id)s AND number > %(end)s);
DELETE FROM maestro.usage_source WHERE id = %(id)s AND scope = %(scope)s AND NOT EXISTS (
  SELECT FROM maestro.usage_line WHERE source = %(id)s) RETURNING id
"""
# One look-up for each day there is, not one for each line.
_DAYS = """
WITH RECURSIVE found AS (
  SELECT min(day) AS day FROM maestro.usage_line
  UNION ALL SELECT (SELECT min(l.day) FROM maestro.usage_line l WHERE l.day > found.day)
  FROM found WHERE found.day IS NOT NULL)
SELECT day::text FROM found WHERE day IS NOT NULL AND EXISTS (
  SELECT FROM maestro.usage_line l JOIN maestro.usage_source s ON s.id = l.source
  WHERE l.day = found.day AND s.scope = %(scope)s)
"""
_SOURCES = """
SELECT id, run_id FROM maestro.usage_source s WHERE scope = %(scope)s AND EXISTS (
  SELECT FROM maestro.usage_line WHERE source = s.id AND (%(day)s IS NULL OR day = %(day)s::date))
ORDER BY run_id, id
"""
_EXTENT = """
SELECT source, max(number), array_agg(DISTINCT day::text) FROM maestro.usage_line
WHERE source = ANY(%(ids)s) GROUP BY source
"""
_LINES = """
SELECT source, count(*), string_agg(line || E'\\n', '' ORDER BY number) FROM maestro.usage_line
WHERE source = ANY(%(ids)s) AND (%(day)s IS NULL OR day = %(day)s::date)
GROUP BY source, number / 4096 ORDER BY array_position(%(ids)s::bigint[], source), number / 4096
"""
_TOGETHER = 500  # sources that are read by one query
_REMOVED_AT_ONCE = 10_000  # lines


class PostgresWriter:
    """Appends the events of one run from this process. Safe to use from several threads."""

    def __init__(self, database: UsageDatabase, scope: str, run_id: str) -> None:
        self._database, self._scope, self._run_id = database, scope, run_id
        self._lock = threading.Lock()
        self._source = 0
        self._next = 1
        self._undone: list[int] = []  # numbers of a batch that was not acknowledged: nobody knows more
        self._closed = False

    def append(self, events: Sequence[UsageEvent], *, durable: bool = True) -> None:
        """Writes all events or none. Raises CostError (`spool-unavailable`, `disk-full`, `spool-closed`)."""
        if not events:
            return
        lines = b"".join(encode_event(event) for event in events).decode("ascii")[:-1]
        days = ",".join(event.occurred_at[:10] for event in events)
        with self._lock:
            if self._closed:
                raise CostError("the spool was closed", place=self._database.place, code="spool-closed")
            if not self._source:
                rows = self._database.execute("SELECT nextval('maestro.usage_source_id')", {})
                self._source = int(rows[0][0])
            first, self._next = self._next, self._next + len(events)
            try:
                self._send(first, days, lines, durable=durable)
            except BaseException:
                self._undone += range(first, self._next)
                raise
            self._undone = []

    def _send(self, first: int, days: str, lines: str, *, durable: bool) -> None:
        self._database.execute(
            _APPEND if durable else _UNSAFE + _APPEND,
            {"id": self._source, "scope": self._scope, "run": self._run_id, "undone": self._undone,
             "first": first, "days": days, "lines": lines},
        )  # fmt: skip

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PostgresSpool:
    """`url`: `postgresql://...`; `scope` names whose usage it is: a project of a tenant."""

    def __init__(self, url: str, scope: str) -> None:
        self._database = UsageDatabase(url)
        self._scope = scope

    @property
    def lineage(self) -> PostgresLineage:
        return PostgresLineage(self._database, self._scope)

    def open_run(self, run_id: str) -> PostgresWriter:
        self._database.require_driver()
        if not run_id or "/" in run_id or run_id.startswith(".") or "\0" in run_id:
            raise CostError(
                f"{run_id!r} cannot name a run", place=self._database.place, code="run-id-invalid"
            )
        return PostgresWriter(self._database, self._scope, run_id)

    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run_id for _, run_id in self._query(_SOURCES, day=None)))

    def read_run(self, run_id: str) -> list[UsageEvent]:
        """The run's events, each once. An intent that was never settled stands for its reserve."""
        rows = self._query(
            "SELECT s.id, l.number, l.line FROM maestro.usage_source s"
            " JOIN maestro.usage_line l ON l.source = s.id"
            " WHERE s.scope = %(scope)s AND s.run_id = %(run)s ORDER BY s.id, l.number",
            run=run_id,
        )
        return resolve_events(self._decode(rows, run_id))

    def days(self) -> tuple[str, ...]:
        """Days that there are events of, ascending."""
        return tuple(sorted(row[0] for row in self._query(_DAYS)))

    def chunks(self, day: str | None = None, sources: Collection[str] | None = None) -> Iterator[Chunk]:
        """Every line of a day (None: all), in the order in which duplicates are decided.

        All as of one moment, and streamed: the server sends no more than is asked for.
        """
        with self._database.read() as connection:
            with connection.cursor() as cursor:
                cursor.execute(_SOURCES, {"scope": self._scope, "day": day})
                found = cursor.fetchall()
            runs = {
                number: run_id
                for number, run_id in found
                if sources is None or _name_source(run_id, number) in sources
            }
            ids = list(runs)
            for start in range(0, len(ids), _TOGETHER):
                yield from _stream_chunks(connection, ids[start : start + _TOGETHER], runs, day)

    def read_source(self, source: str) -> Iterator[UsageEvent]:
        """The events of one source, each checked. Raises CostError (`spool-corrupt`) with the line."""
        run_id, number = _parse_source(source)
        rows = self._query(
            "SELECT s.id, l.number, l.line FROM maestro.usage_source s"
            " JOIN maestro.usage_line l ON l.source = s.id"
            " WHERE s.scope = %(scope)s AND s.id = %(id)s ORDER BY l.number",
            id=number,
        )
        return self._decode(rows, run_id)

    def remove(self, source: str, end: int) -> bool:
        """Removes a source that has no line after `end`, in bounded steps.

        Who still writes it begins it anew: nothing that is appended meanwhile is lost.
        """
        number = _parse_source(source)[1]
        for until in range(_REMOVED_AT_ONCE, end + _REMOVED_AT_ONCE, _REMOVED_AT_ONCE):
            if self._query(_REMOVE, id=number, until=min(until, end), end=end):
                return True
        return False

    def close(self) -> None:
        self._database.close()

    def _query(self, statements: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(statements, {"scope": self._scope, **values})

    def _decode(self, rows: Sequence[tuple[Any, ...]], run_id: str) -> Iterator[UsageEvent]:
        for source, number, line in rows:
            place = f"{self._database.place}, {_name_source(run_id, source)}:{number}"
            event = decode_line(line.encode(), place)
            if event is not None:
                yield event


@dataclass(frozen=True, slots=True)
class PostgresLineageFile:
    """The lineage of one run, as if it were a file."""

    database: UsageDatabase
    scope: str
    run_id: str

    @property
    def name(self) -> str:
        return self.run_id

    def __str__(self) -> str:
        return f"{self.database.place}, lineage of {self.run_id}"

    def read_bytes(self) -> bytes:
        rows = self._query(
            "SELECT data FROM maestro.usage_lineage WHERE scope = %(scope)s AND run_id = %(run)s"
        )
        if not rows:
            raise FileNotFoundError(str(self))
        return bytes(rows[0][0].encode())

    def unlink(self, missing_ok: bool = False) -> None:
        del missing_ok
        self._query("DELETE FROM maestro.usage_lineage WHERE scope = %(scope)s AND run_id = %(run)s")

    def append(self, data: bytes) -> None:
        """Durable when it returns. What is there already is not written twice."""
        self._query(
            "INSERT INTO maestro.usage_lineage AS t VALUES (%(scope)s, %(run)s, %(data)s)"
            " ON CONFLICT (scope, run_id) DO UPDATE SET data = t.data || excluded.data"
            " WHERE right(t.data, length(excluded.data)) <> excluded.data",
            data=data.decode(),
        )

    def _query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.database.execute(statement, {"scope": self.scope, "run": self.run_id, **values})


@dataclass(frozen=True, slots=True)
class PostgresLineage:
    """The lineage of ended runs that is not in the lake yet."""

    database: UsageDatabase
    scope: str

    def write(self, run_id: str, data: bytes) -> PostgresLineageFile:
        found = self.file(run_id)
        found.append(data)
        return found

    def file(self, run_id: str) -> PostgresLineageFile:
        return PostgresLineageFile(self.database, self.scope, run_id)

    def files(self) -> tuple[tuple[str, PostgresLineageFile], ...]:
        rows = self.database.execute(
            "SELECT run_id FROM maestro.usage_lineage WHERE scope = %(scope)s ORDER BY run_id",
            {"scope": self.scope},
        )
        return tuple((run_id, self.file(run_id)) for (run_id,) in rows)


def _stream_chunks(
    connection: Connection, ids: list[int], runs: dict[int, str], day: str | None
) -> Iterator[Chunk]:
    with connection.cursor() as cursor:
        cursor.execute(_EXTENT, {"ids": ids})
        extent = {number: (end, frozenset(days) - {day}) for number, end, days in cursor.fetchall()}
    with connection.cursor() as cursor:
        cursor.execute(f"DECLARE chunk NO SCROLL CURSOR FOR {_LINES}", {"ids": ids, "day": day})
        while True:
            cursor.execute("FETCH 16 FROM chunk")  # of at most 4,096 lines each
            rows = cursor.fetchall()
            for number, count, text in rows:
                end, others = extent[number]
                name = _name_source(runs[number], number)
                yield Chunk(runs[number], name, text.encode(), count, others, end)
            if not rows:
                break
        cursor.execute("CLOSE chunk")


def _name_source(run_id: str, number: int) -> str:
    return f"{run_id}.{number}"


def _parse_source(source: str) -> tuple[str, int]:
    run_id, _, number = source.rpartition(".")
    return run_id, int(number)
