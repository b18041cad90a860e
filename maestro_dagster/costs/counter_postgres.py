"""Budgets counted in PostgreSQL, by any number of machines.

A booking is one transaction in two round trips: locks and figures, then changes and commit. The lock of
the run comes first, then the accounts in the order of their keys, so no two bookings wait for each
other. `synchronous_commit` is off but at the end of a run: the rows stay locked for no longer than the
arithmetic takes, and what a crash of the server takes is put right from the spool.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from maestro_dagster.costs.account import Entry, Freeze, Page, Tally, is_of_run, list_paths
from maestro_dagster.costs.counter import Counter
from maestro_dagster.costs.counter_sqlite import entry_row, make_entry
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its own name is lower case

_TABLES = """
SELECT pg_advisory_xact_lock(5567049251);
CREATE TABLE IF NOT EXISTS maestro_budget_account (
  key text COLLATE "C" PRIMARY KEY, spent_nano numeric(38) NOT NULL, reserved_nano numeric(38) NOT NULL,
  spent_tokens bigint NOT NULL, reserved_tokens bigint NOT NULL, unknown bigint NOT NULL,
  told integer NOT NULL, alerted integer NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS maestro_budget_entry (
  reservation_id text PRIMARY KEY, run_id text NOT NULL, owner text NOT NULL, keys text NOT NULL,
  nano numeric(38) NOT NULL, tokens bigint NOT NULL, unknown bigint NOT NULL, open integer NOT NULL);
CREATE INDEX IF NOT EXISTS maestro_budget_entry_run ON maestro_budget_entry (run_id);
CREATE TABLE IF NOT EXISTS maestro_budget_ended (run_id text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS maestro_budget_frozen (
  path text PRIMARY KEY, reason text NOT NULL, by text NOT NULL, at text NOT NULL);
"""
_ACCOUNT = "key, spent_nano, reserved_nano, spent_tokens, reserved_tokens, unknown, told, alerted"
_ENTRY = "reservation_id, run_id, owner, keys, nano, tokens, unknown, open"
_MOST = 8  # connections of one process; further callers wait in line
_TIMEOUT = 10  # seconds to connect
_LOCK_TIMEOUT = "30s"


class PostgresCounter(Counter):
    """Connects on first use. Safe between threads, processes and forks. `url`: `postgresql://...`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.place = show_url(url)
        self._room = threading.BoundedSemaphore(_MOST)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._pid = 0
        self._ready = False

    @contextmanager
    def _page(
        self, run_id: str, keys: Sequence[str], reservation_id: str | None, *, durable: bool = False
    ) -> Iterator[Page]:
        with self._transact(durable=durable) as cursor:
            found: list[Entry] = []
            every = tuple(dict.fromkeys(keys))
            if reservation_id is None:
                found = _read_entries(cursor, run_id)
                every = tuple(dict.fromkeys([*every, *(key for entry in found for key in entry.keys)]))
            tallies, one, frozen, ended = _read_page(cursor, run_id, every, reservation_id)
            if one is not None:
                found = [one]
            missing = [key for entry in found for key in entry.keys if key not in tallies]
            if missing:  # a settlement whose reservation was made on other accounts, over midnight
                tallies.update(_lock_tallies(cursor, missing))
            entries = {entry.reservation_id: entry for entry in found}
            paths = list_paths(every)
            page = Page(
                dict(tallies), dict(entries), tuple(each for each in frozen if each.path in paths), ended
            )
            yield page
            _write_page(cursor, page, tallies, entries)
            if page.end or ended:  # locking made rows for the accounts of an ended run again
                _forget(cursor, run_id, [*every, *page.tallies])

    def read(self, keys: Collection[str]) -> dict[str, Tally]:
        tallies = {key: Tally() for key in keys}
        with self._transact() as cursor:
            cursor.execute(
                f"SELECT {_ACCOUNT} FROM maestro_budget_account WHERE key = ANY(%s)", (list(keys),)
            )
            tallies.update({row[0]: _tally(row) for row in cursor.fetchall()})
        return tallies

    def list_tallies(self, path: str) -> dict[str, Tally]:
        with self._transact() as cursor:
            cursor.execute(
                f"SELECT {_ACCOUNT} FROM maestro_budget_account"
                " WHERE (key >= %s AND key < %s) OR (key >= %s AND key < %s)",
                (f"{path}/", f"{path}0", f"{path}#", f"{path}$"),
            )
            return {row[0]: _tally(row) for row in cursor.fetchall()}

    def freeze(self, freeze: Freeze) -> None:
        with self._transact(durable=True) as cursor:
            cursor.execute(
                "INSERT INTO maestro_budget_frozen VALUES (%s, %s, %s, %s) ON CONFLICT (path) DO UPDATE"
                " SET reason = excluded.reason, by = excluded.by, at = excluded.at",
                (freeze.path, freeze.reason, freeze.by, freeze.at),
            )

    def thaw(self, path: str) -> bool:
        with self._transact(durable=True) as cursor:
            cursor.execute("DELETE FROM maestro_budget_frozen WHERE path = %s", (path,))
            return bool(cursor.rowcount == 1)

    def list_frozen(self) -> tuple[Freeze, ...]:
        with self._transact() as cursor:
            cursor.execute("SELECT path, reason, by, at FROM maestro_budget_frozen ORDER BY path")
            return tuple(Freeze(*row) for row in cursor.fetchall())

    def mark_alerted(self, key: str, bits: int) -> int:
        with self._transact() as cursor:
            found = _lock_tallies(cursor, [key])[key]
            cursor.execute(
                "UPDATE maestro_budget_account SET alerted = alerted | %s WHERE key = %s", (bits, key)
            )
            return bits & ~found.alerted

    def check(self) -> str:
        with self._transact() as cursor:
            cursor.execute("SELECT count(*) FROM maestro_budget_account")
            return f"{cursor.fetchall()[0][0]} budget accounts in {self.place}"

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                for connection in self._idle:
                    connection.close()
            self._idle = []

    @contextmanager
    def _transact(self, *, durable: bool = False) -> Iterator[_Transaction]:
        """A transaction, committed at the end; a connection that broke is not used again."""
        import psycopg2

        with self._room:
            try:
                connection = self._take()
                good = False
                try:
                    with connection.cursor() as cursor:
                        transaction = _Transaction(cursor, durable=durable)
                        try:
                            yield transaction
                        except BaseException:
                            with suppress(psycopg2.Error):
                                cursor.execute("ROLLBACK")
                                good = True
                            raise
                        transaction.commit()
                    good = True
                finally:
                    self._give(connection, good=good)
            except psycopg2.Error as error:
                raise _unusable(self.place, str(error)) from error

    def _take(self) -> Connection:
        with self._lock:
            if self._pid != os.getpid():  # a forked child must not talk through its parent's connections
                self._idle, self._pid, self._ready = [], os.getpid(), False
                self._room = threading.BoundedSemaphore(_MOST)
            if self._idle:
                return self._idle.pop()
        connection = _connect(self._url)
        if not self._ready:
            with connection.cursor() as cursor:
                cursor.execute(f"BEGIN; {_TABLES} COMMIT")
            self._ready = True
        return connection

    def _give(self, connection: Connection, *, good: bool) -> None:
        if not good or connection.closed:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)


class _Transaction:
    """`BEGIN` goes along with the first statement and `COMMIT` with the last: they cost no round trip."""

    def __init__(self, cursor: Any, *, durable: bool) -> None:
        self._cursor = cursor
        self._head = "BEGIN; SET LOCAL synchronous_commit = on; " if durable else "BEGIN; "
        self._tail: list[str] = []

    def execute(self, statement: str, values: Any = None) -> None:
        self._cursor.execute(self._head + statement, values)
        self._head = ""

    def add(self, statement: str, values: Any) -> None:
        """For the end of the transaction."""
        self._tail.append(self._cursor.mogrify(statement, values).decode())

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._cursor.fetchall()
        return rows

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    def commit(self) -> None:
        self._cursor.execute(self._head + "; ".join([*self._tail, "COMMIT"]))


def show_url(url: str) -> str:
    """Without user and password."""
    parts = urlsplit(url)
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    return f"{parts.scheme}://{host}{parts.path}"


def _connect(url: str) -> Connection:
    try:
        import psycopg2
    except ImportError as error:
        raise CostError(
            "budgets are to be counted in PostgreSQL, and its driver is not installed",
            place="setting database",
            remedy="install the extra: pip install 'maestro-dagster[postgres]'",
            code="budget-counter-unavailable",
        ) from error
    connection = psycopg2.connect(url, connect_timeout=_TIMEOUT, application_name="maestro-budget")
    connection.autocommit = True  # transactions are begun and ended here by hand
    with connection.cursor() as cursor:
        cursor.execute(f"SET synchronous_commit = off; SET lock_timeout = '{_LOCK_TIMEOUT}'")
    return connection


def _read_entries(cursor: _Transaction, run_id: str) -> list[Entry]:
    """All of a run. Takes its lock, so that nobody books on it until the end."""
    cursor.execute(
        f"SELECT pg_advisory_xact_lock(hashtextextended(%s, 0));"
        f" SELECT {_ENTRY} FROM maestro_budget_entry WHERE run_id = %s",
        (run_id, run_id),
    )
    return [make_entry(row) for row in cursor.fetchall()]


def _read_page(
    cursor: _Transaction, run_id: str, keys: Sequence[str], reservation_id: str | None
) -> tuple[dict[str, Tally], Entry | None, list[Freeze], bool]:
    """One round trip: locks, then all that the booking has to see.

    Each statement of the batch has a snapshot of its own, so the later ones see what their locks cover.
    """
    cursor.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%(run)s, 0));"
        " INSERT INTO maestro_budget_account SELECT key, 0, 0, 0, 0, 0, 0, 0 FROM unnest(%(keys)s::text[])"
        ' AS key ORDER BY key COLLATE "C" ON CONFLICT DO NOTHING;'
        f" WITH locked AS (SELECT {_ACCOUNT} FROM maestro_budget_account WHERE key = ANY(%(keys)s)"
        " ORDER BY key FOR UPDATE) SELECT 'account', to_json(array_agg(row_to_json(locked)))::text"
        " FROM locked UNION ALL"
        f" SELECT 'entry', row_to_json(e)::text FROM (SELECT {_ENTRY} FROM maestro_budget_entry"
        " WHERE reservation_id = %(id)s) e UNION ALL"
        " SELECT 'frozen', row_to_json(f)::text FROM maestro_budget_frozen f UNION ALL"
        " SELECT 'ended', run_id FROM maestro_budget_ended WHERE run_id = %(run)s",
        {"run": run_id, "keys": list(keys), "id": reservation_id},
    )
    return _parse_page(cursor.fetchall(), keys)


def _parse_page(
    rows: Sequence[tuple[str, str | None]], keys: Sequence[str]
) -> tuple[dict[str, Tally], Entry | None, list[Freeze], bool]:
    import json

    tallies = dict.fromkeys(keys, Tally())
    entry: Entry | None = None
    frozen: list[Freeze] = []
    ended = False
    for kind, text in rows:
        if kind == "ended":
            ended = True
            continue
        value = json.loads(text or "null")
        if kind == "account":
            tallies.update({each["key"]: _tally(list(each.values())) for each in value or ()})
        elif kind == "entry":
            entry = make_entry(tuple(value[name] for name in _ENTRY.split(", ")))
        else:
            frozen.append(Freeze(**value))
    return tallies, entry, sorted(frozen, key=lambda each: each.path), ended


def _lock_tallies(cursor: _Transaction, keys: Sequence[str]) -> dict[str, Tally]:
    tallies = dict.fromkeys(keys, Tally())
    cursor.execute(
        f"SELECT {_ACCOUNT} FROM maestro_budget_account WHERE key = ANY(%s) ORDER BY key FOR UPDATE",
        (list(keys),),
    )
    tallies.update({row[0]: _tally(row) for row in cursor.fetchall()})
    return tallies


def _write_page(
    cursor: _Transaction, page: Page, tallies: dict[str, Tally], entries: dict[str, Entry]
) -> None:
    changed = [(key, *tally) for key, tally in page.tallies.items() if tally != tallies.get(key)]
    if changed:
        marks = ", ".join(["%s"] * len(changed))
        names = _ACCOUNT.split(", ")[1:]
        cursor.add(
            f"INSERT INTO maestro_budget_account VALUES {marks} ON CONFLICT (key) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in names),
            changed,
        )
    new = [entry_row(entry) for name, entry in page.entries.items() if entry != entries.get(name)]
    if new:
        marks = ", ".join(["%s"] * len(new))
        cursor.add(
            f"INSERT INTO maestro_budget_entry VALUES {marks} ON CONFLICT (reservation_id) DO UPDATE SET"
            " nano = excluded.nano, tokens = excluded.tokens, unknown = excluded.unknown,"
            " open = excluded.open",
            new,
        )
    if gone := list(entries.keys() - page.entries.keys()):
        cursor.add("DELETE FROM maestro_budget_entry WHERE reservation_id = ANY(%s)", (gone,))


def _forget(cursor: _Transaction, run_id: str, touched: Collection[str]) -> None:
    keys = {key for key in touched if is_of_run(key, run_id)}
    cursor.add(
        "DELETE FROM maestro_budget_account WHERE key = ANY(%s);"
        " DELETE FROM maestro_budget_entry WHERE run_id = %s;"
        " INSERT INTO maestro_budget_ended VALUES (%s) ON CONFLICT DO NOTHING",
        (list(keys), run_id, run_id),
    )


def _tally(row: Sequence[Any]) -> Tally:
    return Tally(*(int(value) for value in row[1:]))


def _unusable(place: str, why: str) -> CostError:
    first = why.strip().splitlines()[0] if why.strip() else "the server gave no reason"
    return CostError(
        f"the budget counters cannot be used: {first}",
        place=place,
        remedy="look at the database that the setting `database` names",
        code="budget-counter-unavailable",
    )
