"""Copies tables of a SQLite file into PostgreSQL, and looks whether everything arrived as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from maestro_dagster.database.interface import Connection
from maestro_dagster.errors import DatabaseError

_BATCH = 500  # rows


@dataclass(frozen=True, slots=True)
class Table:
    """`keys` tell its rows apart. `left_out` are columns that the other side numbers anew, in the order of
    the first of them. Columns in `added` are summed where both sides have the row. `where` picks rows (SQL).
    """

    name: str
    keys: tuple[str, ...]
    target: str = ""
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    where: str = ""


def copy_table(
    source: sqlite3.Connection, target: Connection, table: Table, say: Callable[[int], object]
) -> int:
    """Within one transaction of the target; gives how many rows there were. `say` hears of each batch.

    Raises DatabaseError (`migrate-differs`) when a row is there that says something else, or did not arrive.
    """
    columns = _columns(source, table)
    if not columns:
        return 0
    total = 0
    for rows in _batches(source, table, columns):
        expected = {_key(row, columns, table): row for row in rows}
        if table.added:
            before = _find(target, table, columns, list(expected))
            expected = {key: _sum(row, before.get(key), columns, table) for key, row in expected.items()}
        target.executemany(_insert(table, columns), list(expected.values()))
        found = _find(target, table, columns, list(expected))
        for key, row in expected.items():
            if found.get(key) != row:
                raise DatabaseError(
                    f"the row {key} of the table {table.name} is there, and says something else",
                    place=f"table {table.target or table.name}",
                    remedy="nothing was copied; give this project an empty database, and run it again",
                    code="migrate-differs",
                )
        total += len(rows)
        say(total)
    return total


def _columns(source: sqlite3.Connection, table: Table) -> tuple[str, ...]:
    """Empty where the file has no such table: an older file."""
    names = (row[1] for row in source.execute(f"PRAGMA table_info({table.name})"))
    return tuple(name for name in names if name not in table.left_out)


def _batches(
    source: sqlite3.Connection, table: Table, columns: Sequence[str]
) -> Iterator[list[tuple[Any, ...]]]:
    order = ", ".join(table.left_out[:1] or table.keys)
    where = f" WHERE {table.where}" if table.where else ""
    cursor = source.execute(f"SELECT {', '.join(columns)} FROM {table.name}{where} ORDER BY {order}")  # noqa: S608 - constants of the tables
    while rows := cursor.fetchmany(_BATCH):
        yield rows


def _insert(table: Table, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    head = f"INSERT INTO {table.target or table.name} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT "  # noqa: S608 - constants of the tables
    if not table.added:
        return head + "DO NOTHING"
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in table.keys)
    return f"{head}({', '.join(table.keys)}) DO UPDATE SET {changes}"


def _find(
    target: Connection, table: Table, columns: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    one = f"({', '.join('?' * len(table.keys))})"
    query = (
        f"SELECT {', '.join(columns)} FROM {table.target or table.name}"  # noqa: S608 - constants of the tables
        f" WHERE ({', '.join(table.keys)}) IN ({', '.join([one] * len(keys))})"
    )
    rows = target.execute(query, [part for key in keys for part in key])
    found = (tuple(_plain(value) for value in row) for row in rows)
    return {_key(row, columns, table): row for row in found}


def _key(row: Sequence[Any], columns: Sequence[str], table: Table) -> tuple[Any, ...]:
    return tuple(row[columns.index(name)] for name in table.keys)


def _sum(
    row: tuple[Any, ...], other: tuple[Any, ...] | None, columns: Sequence[str], table: Table
) -> tuple[Any, ...]:
    if other is None:
        return row
    return tuple(
        mine + theirs if name in table.added else theirs
        for name, mine, theirs in zip(columns, row, other, strict=True)
    )


def _plain(value: Any) -> Any:
    """As SQLite gives it."""
    if isinstance(value, memoryview):
        return bytes(value)
    return int(value) if isinstance(value, Decimal) else value
