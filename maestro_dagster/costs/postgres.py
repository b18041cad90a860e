"""The tables of usage in PostgreSQL: a statement is a transaction, sent in one round trip.

Whatever is executed here may be sent twice: when a connection breaks while a statement commits, nobody can
tell whether it did. So every statement is written such that its repetition changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maestro_dagster.database.interface import Wording
from maestro_dagster.database.migration import require_schema
from maestro_dagster.database.pool import Pool, send
from maestro_dagster.errors import CostError, MaestroError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its own name is lower case

_WORDING = Wording(CostError, "the database of the usage", "spool")
_BAD_DATA = "22"  # a class of SQLSTATE


class UsageDatabase:
    """Connects on first use. All of it raises CostError (`disk-full`, `spool-unavailable`, `spool-busy`,
    `spool-older`, `spool-newer`).
    """

    def __init__(self, url: str) -> None:
        self._pool = _UsagePool(
            url,
            wording=_WORDING,
            settings="SET synchronous_commit = on; SET lock_timeout = '30s'",
            prepare=lambda connection: require_schema(connection, url, _WORDING, dagster=True),
            name="maestro-usage",
        )
        self.place = self._pool.place

    def execute(self, statements: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """One transaction: the rows of its last statement. Committed when it returns.

        Raises CostError (`event-invalid`, `spool-write`) too.
        """

        def act(connection: Connection) -> list[tuple[Any, ...]]:
            return send(connection, statements, values)

        with self._pool.room():
            connection, rows = self._pool.insist(act)
        self._pool.give(connection)
        return rows

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the tables as of one moment."""
        import psycopg2

        def begin(connection: Connection) -> None:
            send(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

        connection, _ = self._pool.insist(begin)
        try:
            yield connection
            send(connection, "COMMIT")
        except psycopg2.Error as error:
            raise self._pool.fault(error) from error
        finally:
            self._pool.give(connection)

    def require_driver(self) -> None:
        """Raises CostError (`spool-unavailable`) where the extra is not installed."""
        self._pool.driver()

    def close(self) -> None:
        self._pool.close()


class _UsagePool(Pool):
    def fault(self, error: Exception) -> MaestroError:
        found = super().fault(error)
        if found.error_code != "spool-refused":
            return found
        bad = (getattr(error, "pgcode", None) or "").startswith(_BAD_DATA)
        return CostError(
            found.fact,
            place=found.place,
            remedy="" if bad else found.remedy,
            code="event-invalid" if bad else "spool-write",
        )
