"""The published days as an Apache Iceberg table, for engines that read Iceberg. Only the compactor commits.

The table is a copy: what Maestro itself reads are the lake's own files. A day is replaced by one commit,
whose snapshot names the day and the SHA-256 of the file it was made from; the table's properties keep the
same for each day, so a commit that is repeated does nothing, and one that a crash prevented is made up for
by the next compaction, whatever day that is of.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.lake import USAGE
from maestro_dagster.costs.schema import COLUMNS, VERSION, complete_usage, usage_schema
from maestro_dagster.database.address import use_schema
from maestro_dagster.errors import CostError, MaestroError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

    from maestro_dagster.costs.lake import Lake

NAMESPACE = "maestro"
FOLDER, CATALOGUE = "iceberg", "catalogue.sqlite"  # in the lake
SHA256 = "maestro.sha256"
_DAY, _SCHEMA = "maestro.day", "maestro.usage.version"
_TRIES = 5  # another compactor may commit its day at the same moment


def commit_days(lake: Lake, name: str, database: str | None = None) -> tuple[str, ...]:
    """Brings the table to what the lake has published. Gives the days that were committed now.

    `name` is the catalogue's; `database` (`postgresql://...`) holds it, else a SQLite file in the lake.
    Raises CostError (`iceberg-missing`, `iceberg-catalogue`, `iceberg-commit`, `lake-damaged`): the lake
    itself stays as it is.
    """
    _require_extra()
    committed: list[str] = []
    try:
        catalogue = open_catalogue(lake, name, database)
        table = _open_table(catalogue)
        known = _known_days(table)
        for day in sorted({*lake.usage.days(), *known}):
            if known.get(day) == _published(lake, day):
                continue
            with warnings.catch_warnings():
                # Replacing a day that has no rows yet is nothing to warn of.
                warnings.filterwarnings("ignore", "Delete operation did not match", UserWarning)
                if _commit_day(catalogue, lake, day):
                    committed.append(day)
    except MaestroError:
        raise
    except Exception as error:  # the catalogue and each object store raise errors of their own
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CostError(
            f"the Iceberg table was not brought up to date: {why[:200]}",
            place=lake.location,
            remedy="the days are published; the next `maestro cost compact` commits what is missing",
            code="iceberg-commit",
        ) from error
    return tuple(committed)


def open_catalogue(lake: Lake, name: str, database: str | None = None) -> SqlCatalog:
    """The SQL catalogue. Its table is `maestro.usage_daily`. Raises CostError."""
    _require_extra()
    from pyiceberg.catalog.sql import SqlCatalog

    if database:
        location = f"{lake.location.rstrip('/')}/{FOLDER}"
        # The catalogue names no schema for its two tables: they lie beside Dagster's.
        uri = use_schema(database, "public").replace("postgresql://", "postgresql+psycopg2://", 1)
        if "://" not in location:
            return SqlCatalog(name, uri=uri, warehouse=f"file://{location}")
        # Through fsspec, as all that goes there: Arrow's own client knows no AWS_ENDPOINT_URL and no profile.
        options = {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"}
        return SqlCatalog(name, uri=uri, warehouse=location, **options)
    if lake.files is not None:
        raise CostError(
            "an Iceberg catalogue cannot be a file in an object store",
            place=lake.location,
            remedy="name a PostgreSQL with the setting `database`, or switch `iceberg` off",
            code="iceberg-catalogue",
        )
    folder = Path(lake.location) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return SqlCatalog(name, uri=f"sqlite:///{folder / CATALOGUE}", warehouse=f"file://{folder}")


def iceberg_schema() -> pa.Schema:
    """The lake's columns and `day`. All may be null: a later version can add to them."""
    import pyarrow as pa

    return pa.schema([*(field.with_nullable(True) for field in usage_schema()), pa.field("day", pa.date32())])


def _open_table(catalogue: SqlCatalog) -> Table:
    """Made where it is lacking, with the columns of this version."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    catalogue.create_namespace_if_not_exists(NAMESPACE)
    identifier = (NAMESPACE, USAGE)
    if not catalogue.table_exists(identifier):
        try:
            with (
                catalogue.create_table_transaction(
                    identifier, iceberg_schema(), properties={_SCHEMA: str(VERSION)}
                ) as transaction,
                transaction.update_spec() as spec,
            ):
                spec.add_identity("day")
        except TableAlreadyExistsError:
            pass  # by another compactor, just now
    table = catalogue.load_table(identifier)
    if set(iceberg_schema().names) - {field.name for field in table.schema().fields}:
        with table.transaction() as transaction:
            with transaction.update_schema() as update:
                update.union_by_name(iceberg_schema())
            transaction.set_properties({_SCHEMA: str(VERSION)})
    return table


def _known_days(table: Table) -> dict[str, str]:
    """Days, each with the SHA-256 of the file that it was committed from."""
    prefix = f"{SHA256}."
    return {
        name.removeprefix(prefix): value
        for name, value in table.properties.items()
        if name.startswith(prefix)
    }


def _published(lake: Lake, day: str) -> str | None:
    manifest = lake.usage.manifest(day)
    return manifest.sha256 if manifest else None


def _commit_day(catalogue: SqlCatalog, lake: Lake, day: str) -> bool:
    """Whether there was anything to commit, as another compactor may have done it."""
    from pyiceberg.exceptions import CommitFailedException

    with lake.usage.lock_day(day):  # nobody publishes it, and nobody commits an older file after a newer
        for attempt in range(_TRIES):
            table = catalogue.load_table((NAMESPACE, USAGE))
            sha256, rows = _read_day(lake, day)
            if _known_days(table).get(day) == (sha256 or None):
                return False
            try:
                _replace_day(table, day, sha256, rows)
            except CommitFailedException:
                if attempt == _TRIES - 1:
                    raise
            else:
                return True
    return False


def _replace_day(table: Table, day: str, sha256: str, rows: pa.Table | None) -> None:
    mine = f"day = '{day}'"
    said = {_DAY: day, SHA256: sha256}
    with table.transaction() as transaction:
        if rows is None:
            transaction.delete(mine, snapshot_properties=said)
            transaction.remove_properties(f"{SHA256}.{day}")
            return
        transaction.overwrite(rows, overwrite_filter=mine, snapshot_properties=said)
        transaction.set_properties({f"{SHA256}.{day}": sha256})


def _read_day(lake: Lake, day: str) -> tuple[str, pa.Table | None]:
    """(SHA-256, rows) of the day's file; None when it is not published any more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = lake.usage.manifest(day)
    if manifest is None:
        return "", None
    folder = lake.usage.folder(day)
    data = folder.read(manifest.file)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise CostError(
            "a published file is not what was published",
            place=folder.place(manifest.file),
            remedy="restore the day's folder from a backup, or remove it and compact the day again",
            code="lake-damaged",
        )
    table = complete_usage(pq.read_table(io.BytesIO(data), partitioning=None)).select(list(COLUMNS))
    days = pa.array([date.fromisoformat(day)] * table.num_rows, pa.date32())
    whole: Any = table.append_column("day", days).cast(iceberg_schema())
    return manifest.sha256, whole


def _require_extra() -> None:
    try:
        import pyiceberg.catalog.sql  # noqa: F401 - whether it is there
    except ImportError as error:
        raise CostError(
            "an Iceberg table is wanted, and what writes it is not installed",
            place="setting iceberg",
            remedy="install the extra: pip install 'maestro-dagster[iceberg]'",
            code="iceberg-missing",
        ) from error
