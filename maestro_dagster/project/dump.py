"""The tables of a project in PostgreSQL, copied out of one snapshot and back in one transaction.

A table is a file: one line of JSON with its columns, then what `COPY ... TO STDOUT` gives
(https://www.postgresql.org/docs/current/sql-copy.html, text format). Sequences are a file of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.database.placeholder import convert_sql
from maestro_dagster.errors import DatabaseError, ProjectError
from maestro_dagster.project.backup_moment import ATTEMPTS, RUNS

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

    from maestro_dagster.database.interface import Connection, Rows

SEQUENCES = "sequences.json"
_SCHEMA = "maestro"
_NOT_KEPT = frozenset({"alembic_version", "writer"})  # made again; of sessions that are gone
_USAGE = ("usage_source", "usage_line", "usage_lineage")
_MUST_BE_EMPTY = ("run", "event")
_NOTED = "restore "  # a restore's row in the table of what was moved into the database
# Who writes waits, who reads does not: nobody fills the tables beside a restore.
_LOCK = "LOCK TABLE maestro.run, maestro.event IN SHARE ROW EXCLUSIVE MODE"
_SEQUENCES = """
SELECT sequencename, last_value FROM pg_sequences
WHERE schemaname = 'maestro' AND last_value IS NOT NULL ORDER BY sequencename
"""
_COLUMNS = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'maestro'::regnamespace AND c.relkind IN ('r', 'p')
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.relname ORDER BY c.relname
"""


def read_usage(url: str) -> dict[str, frozenset[bytes]]:
    """The rows of the tables of usage, as COPY writes them. They are written once and removed once."""
    from maestro_dagster.database.migration import read_revision

    found: dict[str, frozenset[bytes]] = {}
    with _connected(url) as connection, connection.cursor() as cursor:
        if read_revision(connection) is None:
            return found
        for table, columns in _send(connection, _COLUMNS):
            if table in _USAGE:
                rows = BytesIO()
                cursor.copy_expert(f"COPY {_quote(table)} ({_list(columns)}) TO STDOUT", rows)
                found[table] = frozenset(rows.getvalue().splitlines(keepends=True))
    return found


def dump_tables(
    url: str, folder: Path, keep: Callable[[str, Path], None], earlier: Mapping[str, frozenset[bytes]]
) -> tuple[str, list[Any], list[Any]]:
    """Hands out each table as a file; gives the revision of the tables, the runs, and their attempts.

    `earlier`: rows of usage that were there a while ago; those that are gone by now are kept too.

    Raises DatabaseError (`database-dump`).
    """
    with _connected(url) as connection:
        from maestro_dagster.database.migration import read_revision

        _send(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        revision = read_revision(connection)
        if revision is None:
            raise DatabaseError(
                "the database has no tables of Maestro yet", place="setting database",
                remedy="run something first: there is nothing to back up", code="database-dump",
            )  # fmt: skip
        runs, attempts = _send(connection, _in_schema(RUNS)), _send(connection, _in_schema(ATTEMPTS))
        for table, columns in _send(connection, _COLUMNS):
            if table in _NOT_KEPT:
                continue
            path = folder / table
            with path.open("wb") as file, connection.cursor() as cursor:
                file.write(json.dumps(columns).encode() + b"\n")
                cursor.copy_expert(f"COPY {_quote(table)} ({_list(columns)}) TO STDOUT", file)
            if missed := earlier.get(table):
                with path.open("rb") as file:
                    missed = missed.difference(file)
                with path.open("ab") as file:
                    file.writelines(sorted(missed))
            keep(table, path)
            path.unlink()
        state = _send(connection, _SEQUENCES)
        path = folder / SEQUENCES
        path.write_text(json.dumps(dict(state)), encoding="utf-8")
        keep(SEQUENCES, path)
    return revision, runs, attempts


@contextmanager
def load_tables(url: str, revision: str, files: Callable[[str], Path], names: list[str]) -> Iterator[Load]:
    """Fills the empty tables of a database. They are filled for others once `Load.commit` was called.

    `files` gives the file of a name. Raises ProjectError (`restore-occupied`), DatabaseError.
    """
    from maestro_dagster.database.migration import list_revisions, upgrade_schema

    if revision not in list_revisions():
        raise ProjectError(
            f"the backup has tables of revision {revision}, which this Maestro does not know",
            place="setting database",
            remedy="install the Maestro that made the backup, or a newer one",
            code="backup-malformed",
        )
    _refuse_occupied(url)
    upgrade_schema(url, revision)
    with _connected(url) as connection:
        _send(connection, _LOCK)
        _refuse_rows(connection, url)
        known = dict(_send(connection, _COLUMNS))
        for name in names:
            if name != SEQUENCES:
                _load_table(connection, name, files(name), known)
        for name, value in json.loads(files(SEQUENCES).read_text(encoding="utf-8")).items():
            _send(connection, "SELECT setval(%s::regclass, %s)", (_quote(str(name)), int(value)))
        yield Load(connection)
    finish_tables(url)


def finish_tables(url: str) -> None:
    """The tables of a backup may be of an earlier revision than this Maestro's."""
    from maestro_dagster.database.migration import list_revisions, read_revision, upgrade_schema

    with _connected(url) as connection:
        found = read_revision(connection)
    if found != list_revisions()[-1]:
        upgrade_schema(url)


def is_committed(url: str, token: str) -> bool:
    """Whether the load that noted the token has become what others see. Waits for one that is on its way."""
    from maestro_dagster.database.migration import read_revision

    with _connected(url) as connection:
        if read_revision(connection) is None:
            return False
        _send(connection, _LOCK)
        query = f"SELECT EXISTS (SELECT 1 FROM {_quote('moved')} WHERE home = %s)"  # noqa: S608 - a constant
        return bool(_send(connection, query, (_NOTED + token,))[0][0])


class Load:
    """Tables that only we see so far."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection

    def connection(self) -> Connection:
        """For the SQL that rooms share with SQLite; what it writes is committed with all the rest."""
        _send(self._connection, f"SET LOCAL search_path TO {_SCHEMA}")
        return _Portable(self._connection)

    def note(self, token: str) -> None:
        """What `is_committed` looks for."""
        query = f"INSERT INTO {_quote('moved')} VALUES (%s, extract(epoch FROM now()), '{{}}') RETURNING home"  # noqa: S608
        _send(self._connection, query, (_NOTED + token,))

    def commit(self) -> None:
        self._connection.commit()


class _Portable:
    """SQL with `?` on the open transaction."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        cursor = self._connection.cursor()
        cursor.execute(convert_sql(sql), tuple(values))
        rows: Rows = cursor
        return rows

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(convert_sql(sql), list(rows))


def read_columns(path: Path, names: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
    """Columns of a table's file, of plain words: nothing in them is escaped."""
    with path.open("rb") as file:
        columns = json.loads(file.readline())
        places = [columns.index(name) for name in names]
        for line in file:
            values = line.rstrip(b"\n").split(b"\t")
            yield tuple(None if values[at] == b"\\N" else values[at].decode() for at in places)


def _load_table(connection: RawConnection, name: str, path: Path, known: dict[str, list[str]]) -> None:
    with path.open("rb") as file, connection.cursor() as cursor:
        columns = json.loads(file.readline())
        if name not in known or not set(columns) <= set(known[name]):
            raise ProjectError(
                f"the backup holds a table {name[:80]!r} that the database has no place for",
                place="setting database", remedy="take another backup", code="backup-malformed",
            )  # fmt: skip
        cursor.copy_expert(f"COPY {_quote(name)} ({_list(columns)}) FROM STDIN", file)


def _refuse_occupied(url: str) -> None:
    from maestro_dagster.database.migration import read_revision

    with _connected(url) as connection:
        if read_revision(connection) is not None:
            _refuse_rows(connection, url)


def _refuse_rows(connection: RawConnection, url: str) -> None:
    from maestro_dagster.database.address import show_url

    for table in _MUST_BE_EMPTY:
        if _send(connection, f"SELECT EXISTS (SELECT 1 FROM {_quote(table)})")[0][0]:  # noqa: S608 - ours
            raise ProjectError(
                "there is something already where the backup is to go: the database has runs or events",
                place=show_url(url),
                remedy="name an empty database in the setting `database`",
                code="restore-occupied",
            )


@contextmanager
def _connected(url: str) -> Iterator[RawConnection]:
    import psycopg2

    from maestro_dagster.database.address import hide_url, show_url

    try:
        connection = psycopg2.connect(url, connect_timeout=10)
        try:
            yield connection
        finally:
            connection.close()  # whatever was not committed is undone
    except psycopg2.Error as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DatabaseError(
            f"the database cannot be copied: {hide_url(why, url)[:200]}",
            place=show_url(url),
            remedy="check the setting `database` and the rights of its role",
            code="database-dump",
        ) from error


def _send(connection: RawConnection, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
    from maestro_dagster.database.pool import send

    return send(connection, query, values)


def _in_schema(query: str) -> str:
    return f"SET LOCAL search_path TO {_SCHEMA}; {query}"


def _quote(name: str) -> str:
    return f"{_SCHEMA}." + '"' + name.replace('"', '""') + '"'


def _list(columns: list[str]) -> str:
    return ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
