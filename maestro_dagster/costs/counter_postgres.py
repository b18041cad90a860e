"""Budgets counted in PostgreSQL, by any number of machines.

A booking is one transaction in two round trips: locks and figures, then changes and commit. The lock of
the run comes first, then the accounts in the order of their keys, so no two bookings wait for each
other. `synchronous_commit` is off but at the end of a run: the rows stay locked for no longer than the
arithmetic takes, and what a crash of the server takes is put right from the spool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.account import Entry, Freeze, Page, Tally, is_of_run, list_paths
from maestro_dagster.costs.counter import Counter
from maestro_dagster.costs.counter_sqlite import entry_row, make_entry
from maestro_dagster.database.interface import Wording
from maestro_dagster.database.migration import require_schema
from maestro_dagster.database.pool import Pool, is_idle
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its own name is lower case

_ACCOUNT = "key, spent_nano, reserved_nano, spent_tokens, reserved_tokens, unknown, told, alerted"
_ENTRY = "reservation_id, run_id, owner, keys, nano, tokens, unknown, open"
_SETTINGS = "SET synchronous_commit = off; SET lock_timeout = '30s'"
_WORDING = Wording(CostError, "the counter of budgets", "budget-counter")


class PostgresCounter(Counter):
    """Connects on first use. Safe between threads, processes and forks. `url`: `postgresql://...`.

    `dagster`: its tables lie in the same database, or will.
    """

    def __init__(self, url: str, *, dagster: bool = False) -> None:
        self._pool = Pool(
            url,
            wording=_WORDING,
            settings=_SETTINGS,
            prepare=lambda connection: require_schema(connection, url, _WORDING, dagster=dagster),
            name="maestro-budget",
        )
        self.place = self._pool.place

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
                f"SELECT {_ACCOUNT} FROM maestro.budget_account WHERE key = ANY(%s)", (list(keys),)
            )
            tallies.update({row[0]: _tally(row) for row in cursor.fetchall()})
        return tallies

    def list_tallies(self, path: str) -> dict[str, Tally]:
        with self._transact() as cursor:
            cursor.execute(
                f"SELECT {_ACCOUNT} FROM maestro.budget_account"
                " WHERE (key >= %s AND key < %s) OR (key >= %s AND key < %s)",
                (f"{path}/", f"{path}0", f"{path}#", f"{path}$"),
            )
            return {row[0]: _tally(row) for row in cursor.fetchall()}

    def freeze(self, freeze: Freeze) -> None:
        with self._transact(durable=True) as cursor:
            cursor.execute(
                "INSERT INTO maestro.budget_frozen VALUES (%s, %s, %s, %s) ON CONFLICT (path) DO UPDATE"
                " SET reason = excluded.reason, by = excluded.by, at = excluded.at",
                (freeze.path, freeze.reason, freeze.by, freeze.at),
            )

    def thaw(self, path: str) -> bool:
        with self._transact(durable=True) as cursor:
            cursor.execute("DELETE FROM maestro.budget_frozen WHERE path = %s", (path,))
            return bool(cursor.rowcount == 1)

    def list_frozen(self) -> tuple[Freeze, ...]:
        with self._transact() as cursor:
            cursor.execute("SELECT path, reason, by, at FROM maestro.budget_frozen ORDER BY path")
            return tuple(Freeze(*row) for row in cursor.fetchall())

    def mark_alerted(self, key: str, bits: int) -> int:
        with self._transact() as cursor:
            found = _lock_tallies(cursor, [key])[key]
            cursor.execute(
                "UPDATE maestro.budget_account SET alerted = alerted | %s WHERE key = %s", (bits, key)
            )
            return bits & ~found.alerted

    def check(self) -> str:
        with self._transact() as cursor:
            cursor.execute("SELECT count(*) FROM maestro.budget_account")
            return f"{cursor.fetchall()[0][0]} budget accounts in {self.place}"

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _transact(self, *, durable: bool = False) -> Iterator[_Transaction]:
        """A transaction, committed at the end; a connection that broke is not used again."""
        psycopg2 = self._pool.driver()
        with self._pool.room():
            transaction = _Transaction(self._pool, durable=durable)
            try:
                yield transaction
                transaction.commit()
            except psycopg2.Error as error:
                raise self._pool.fault(error) from error
            finally:
                transaction.leave()


class _Transaction:
    """`BEGIN` goes along with the first statement and `COMMIT` with the last: they cost no round trip.

    The first statement is sent again when the connection turns out to be lost: nothing was committed.
    """

    def __init__(self, pool: Pool, *, durable: bool) -> None:
        self._pool = pool
        self._head = "BEGIN; SET LOCAL synchronous_commit = on; " if durable else "BEGIN; "
        self._tail: list[str] = []
        self._connection: Connection | None = None
        self._cursor: Any = None

    def execute(self, statement: str, values: Any = None) -> None:
        if self._connection is not None:
            self._cursor.execute(statement, values)
            return

        def begin(connection: Connection) -> Any:
            cursor = connection.cursor()
            cursor.execute(self._head + statement, values)
            return cursor

        self._connection, self._cursor = self._pool.insist(begin)

    def add(self, statement: str, values: Any) -> None:
        """For the end of the transaction, which has begun."""
        self._tail.append(self._cursor.mogrify(statement, values).decode())

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._cursor.fetchall()
        return rows

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    def commit(self) -> None:
        if self._connection is not None:
            self._cursor.execute("; ".join([*self._tail, "COMMIT"]))

    def leave(self) -> None:
        """Gives the connection back, rolled back where it was not committed."""
        if self._connection is not None:
            with suppress(self._pool.driver().Error):
                if not is_idle(self._connection) and not self._connection.closed:
                    self._cursor.execute("ROLLBACK")
            self._pool.give(self._connection)


def _read_entries(cursor: _Transaction, run_id: str) -> list[Entry]:
    """All of a run. Takes its lock, so that nobody books on it until the end."""
    cursor.execute(
        f"SELECT pg_advisory_xact_lock(hashtextextended(%s, 0));"
        f" SELECT {_ENTRY} FROM maestro.budget_entry WHERE run_id = %s",
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
        " INSERT INTO maestro.budget_account SELECT key, 0, 0, 0, 0, 0, 0, 0 FROM unnest(%(keys)s::text[])"
        ' AS key ORDER BY key COLLATE "C" ON CONFLICT DO NOTHING;'
        f" WITH locked AS (SELECT {_ACCOUNT} FROM maestro.budget_account WHERE key = ANY(%(keys)s)"
        " ORDER BY key FOR UPDATE) SELECT 'account', to_json(array_agg(row_to_json(locked)))::text"
        " FROM locked UNION ALL"
        f" SELECT 'entry', row_to_json(e)::text FROM (SELECT {_ENTRY} FROM maestro.budget_entry"
        " WHERE reservation_id = %(id)s) e UNION ALL"
        " SELECT 'frozen', row_to_json(f)::text FROM maestro.budget_frozen f UNION ALL"
        " SELECT 'ended', run_id FROM maestro.budget_ended WHERE run_id = %(run)s",
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
        f"SELECT {_ACCOUNT} FROM maestro.budget_account WHERE key = ANY(%s) ORDER BY key FOR UPDATE",
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
            f"INSERT INTO maestro.budget_account VALUES {marks} ON CONFLICT (key) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in names),
            changed,
        )
    new = [entry_row(entry) for name, entry in page.entries.items() if entry != entries.get(name)]
    if new:
        marks = ", ".join(["%s"] * len(new))
        cursor.add(
            f"INSERT INTO maestro.budget_entry VALUES {marks} ON CONFLICT (reservation_id) DO UPDATE SET"
            " nano = excluded.nano, tokens = excluded.tokens, unknown = excluded.unknown,"
            " open = excluded.open",
            new,
        )
    if gone := list(entries.keys() - page.entries.keys()):
        cursor.add("DELETE FROM maestro.budget_entry WHERE reservation_id = ANY(%s)", (gone,))


def _forget(cursor: _Transaction, run_id: str, touched: Collection[str]) -> None:
    keys = {key for key in touched if is_of_run(key, run_id)}
    cursor.add(
        "DELETE FROM maestro.budget_account WHERE key = ANY(%s);"
        " DELETE FROM maestro.budget_entry WHERE run_id = %s;"
        " INSERT INTO maestro.budget_ended VALUES (%s) ON CONFLICT DO NOTHING",
        (list(keys), run_id, run_id),
    )


def _tally(row: Sequence[Any]) -> Tally:
    return Tally(*(int(value) for value in row[1:]))
