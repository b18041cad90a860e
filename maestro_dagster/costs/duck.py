"""The lake as views of an in-memory DuckDB: usage and cubes, what is only in the spool included.

Files are read through the manifests, so no half-written day is seen; nothing is shared between processes,
no extension is loaded, nothing is written. The views themselves are the SQL files in `costs/sql`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.cube import CUBES, SUMS, cube_schema
from maestro_dagster.costs.schema import COLUMNS, VERSION
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.table import DayManifest

VIEWS: Final = ("usage", "uncubed", *CUBES, "usage_by_day", "month_to_date", "waste")
_SQL: Final = "maestro_dagster.costs"
_DAY: Final = r"CAST(regexp_extract(filename, 'day=(\d{4}-\d{2}-\d{2})/[^/]*$', 1) AS DATE)"


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which files to read: of usage, of the days whose cubes are not to be read, and of the cubes."""

    usage: tuple[str, ...]
    older: tuple[str, ...]  # written before the newest columns were
    stale: frozenset[str]  # files of both, without a current cube
    touched: frozenset[str]  # files with a reserve that was settled since
    stale_days: tuple[str, ...]
    cubes: dict[str, tuple[str, ...]]


def open_views(
    lake: Lake, spool: UsageSpool | None = None, since: str | None = None, until: str | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection with `VIEWS` over the days from `since` up to and including `until` (YYYY-MM-DD).

    Every view has `day` (DATE). A compaction may remove a file that a view still reads: `answer` of
    `costs.question` then opens again. Raises CostError (`lake-damaged`, `spool-corrupt`).
    """
    connection = _connect(lake)
    try:
        # The spool first: what a compaction takes from it meanwhile is in the lake by then, and is known.
        spooled = read_spool(spool, since, until) if spool is not None else None
        manifests = _read_manifests(lake, since, until)
        touched = _register_fresh(connection, lake, spooled, manifests)
        plan = _plan(lake, manifests, touched)
        connection.register("retired_usage", _read_retired(lake, plan.stale_days))
        connection.execute(f"CREATE VIEW lake_usage AS {_select_usage(plan, None)}")
        connection.execute(f"CREATE VIEW stale_usage AS {_select_usage(plan, plan.stale)}")
        for name, paths in plan.cubes.items():
            connection.register(f"empty_{name}", _with_day(cube_schema(name).empty_table()))
            columns = ("day", *CUBES[name], *SUMS)
            source = _select(paths, columns) if paths else f"SELECT * FROM empty_{name}"  # noqa: S608
            connection.execute(f"CREATE VIEW lake_{name} AS {source}")
        for name in VIEWS:
            connection.execute(read_view(name))
    except BaseException:
        connection.close()
        raise
    return connection


def read_view(name: str) -> str:
    """The text of a view's SQL file."""
    return (files(_SQL) / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def read_spool(spool: UsageSpool, since: str | None = None, until: str | None = None) -> pa.Table | None:
    """What the spool has of the days, each event once, in the lake's columns and `day`. None: nothing."""
    import polars as pl

    from maestro_dagster.costs.frame import frame_lines, merge_frames

    frames = []
    for chunk in spool.chunks():
        if not chunk.lines:
            continue
        try:
            frame = frame_lines(chunk.data)
        except CostError:
            for _ in spool.read_source(chunk.source):
                pass  # tells the line, if the damage is in what Python reads as well
            raise
        day = pl.col("occurred_at").dt.date().dt.to_string("iso")
        if since is not None:
            frame = frame.filter(day >= since)
        if until is not None:
            frame = frame.filter(day <= until)
        if frame.height:
            frames.append(frame)
    return _table_with_day(merge_frames(frames)) if frames else None


def connect_memory(**config: str) -> duckdb.DuckDBPyConnection:
    """A database of its own in memory; DuckDB's progress bar would go into our output, so it has none."""
    import duckdb

    connection = duckdb.connect(":memory:", config={**config})
    connection.execute("SET enable_progress_bar = false")
    return connection


def _connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    connection = connect_memory(
        autoinstall_known_extensions="false",
        autoload_known_extensions="false",
        allow_community_extensions="false",
        temp_directory=str(Path(tempfile.gettempdir()) / f"maestro-duckdb-{os.getpid()}"),
    )
    connection.execute("SET TimeZone = 'UTC'; SET parquet_metadata_cache = true")  # files never change
    if lake.files is not None:
        connection.register_filesystem(lake.files)
    return connection


def _read_manifests(lake: Lake, since: str | None, until: str | None) -> dict[str, DayManifest]:
    from maestro_dagster.costs.table import in_period

    days = (day for day in lake.usage.days() if in_period(day, since, until))
    found = ((day, lake.usage.manifest(day)) for day in days)
    return {day: manifest for day, manifest in found if manifest is not None}


def _register_fresh(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    spooled: pa.Table | None,
    manifests: dict[str, DayManifest],
) -> frozenset[str]:
    """Makes `fresh_usage` (what the lake lacks) and `settled_since`; gives the days of the latter."""
    from maestro_dagster.costs.schema import usage_schema

    empty = _with_day(usage_schema().empty_table())
    connection.register("empty_usage", empty)
    connection.register("spooled_usage", empty if spooled is None else spooled)
    days = set() if spooled is None else set(map(str, spooled.column("day").unique().to_pylist()))
    paths = [_path(lake, manifests[day]) for day in sorted(days & manifests.keys())]
    known = _select(paths, ("day", "event_id", "phase")) if paths else "SELECT * FROM empty_usage"
    # A reserve is replaced by its settlement, wherever each of them stands; nothing else is replaced.
    connection.execute(
        f"""
        CREATE TEMP TABLE known AS SELECT day, event_id, phase FROM ({known})
            SEMI JOIN spooled_usage USING (event_id);
        CREATE TEMP TABLE fresh_usage AS SELECT * FROM spooled_usage AS new WHERE NOT EXISTS (
            FROM known WHERE known.event_id = new.event_id
            AND (known.phase = 'settled' OR new.phase = 'intent'));
        CREATE TEMP TABLE settled_since AS SELECT day, event_id FROM known SEMI JOIN fresh_usage
            USING (event_id);
        """  # noqa: S608 - paths are quoted, all else is written here
    )
    found = connection.execute("SELECT DISTINCT CAST(day AS VARCHAR) FROM settled_since").fetchall()
    return frozenset(day for (day,) in found)


def _plan(lake: Lake, manifests: dict[str, DayManifest], touched: frozenset[str]) -> _Plan:
    paths = {day: _path(lake, manifest) for day, manifest in manifests.items()}
    cubes: dict[str, list[str]] = {name: [] for name in CUBES}
    stale = []
    for day, manifest in manifests.items():
        found = {name: lake.table(name).manifest(day) for name in CUBES}
        current = {
            name: lake.table(name).folder(day).place(cube.file)
            for name, cube in found.items()
            if cube is not None and cube.source == manifest.sha256
        }
        if len(current) < len(CUBES) or day in touched:
            stale.append(day)
            continue
        for name, path in current.items():
            cubes[name].append(path)
    return _Plan(
        usage=tuple(paths[day] for day, manifest in manifests.items() if manifest.version >= VERSION),
        older=tuple(paths[day] for day, manifest in manifests.items() if manifest.version < VERSION),
        stale=frozenset(paths[day] for day in stale),
        touched=frozenset(paths[day] for day in touched),
        stale_days=tuple(stale),
        cubes={name: tuple(found) for name, found in cubes.items()},
    )


def _select_usage(plan: _Plan, only: frozenset[str] | None) -> str:
    """SQL of the usage in all files of the plan, or in some."""
    columns = ("day", *COLUMNS)
    usage, older = (
        [path for path in paths if only is None or path in only] for paths in (plan.usage, plan.older)
    )
    parts = []
    unsettled = "ANTI JOIN settled_since USING (event_id)"
    if plain := [path for path in usage if path not in plan.touched]:
        parts.append(_select(plain, columns))
    if settled := [path for path in usage if path in plan.touched]:
        parts.append(f"SELECT * FROM ({_select(settled, columns)}) {unsettled}")  # noqa: S608
    if older:
        parts.append(f"SELECT * FROM ({_select_older(older)}) {unsettled}")  # noqa: S608
    return " UNION ALL ".join(parts) or "SELECT * FROM empty_usage"


def _select_older(paths: Sequence[str]) -> str:
    """Columns that came later, at what they meant before."""
    import pyarrow as pa

    from maestro_dagster.costs.schema import complete_usage

    first = {name: [""] for name in COLUMNS[: COLUMNS.index("occurred_at") + 1]}  # version 1 has all of these
    (usual,) = complete_usage(pa.table(first)).to_pylist()
    columns = [
        name if name in first or usual[name] is None else f"coalesce({name}, {_quote(usual[name])}) AS {name}"
        for name in COLUMNS
    ]
    source = f"SELECT * FROM empty_usage UNION ALL BY NAME {_select(paths, ('*',), by_name=True)}"  # noqa: S608
    return f"SELECT day, {', '.join(columns)} FROM ({source})"  # noqa: S608


def _select(paths: Sequence[str], columns: Iterable[str], *, by_name: bool = False) -> str:
    """SQL that reads Parquet files of days. `columns` may name `day`, which stands in the path."""
    listed = ", ".join(_quote(_escape_glob(path)) for path in paths)
    options = ", union_by_name = true" if by_name else ""
    parents = {path.rpartition("/day=")[0] for path in paths}
    if any("=" in parent for parent in parents):  # a folder of the operator's must not become a column
        chosen = ", ".join(f"{_DAY} AS day" if name == "day" else name for name in columns)
        chosen = f"* EXCLUDE (filename), {_DAY} AS day" if chosen == "*" else chosen
        options += ", hive_partitioning = false, filename = true"
        return f"SELECT {chosen} FROM read_parquet([{listed}]{options})"  # noqa: S608
    options += ", hive_partitioning = true, hive_types = {'day': DATE}"
    return f"SELECT {', '.join(columns)} FROM read_parquet([{listed}]{options})"  # noqa: S608


def _read_retired(lake: Lake, days: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    from maestro_dagster.costs.removal import GRAIN, read_retired

    money = pa.decimal128(28, 9)
    types = [pa.field(name, pa.bool_() if name == "retry" else pa.string()) for name in GRAIN]
    types += [pa.field(name, money if name == "cost_usd" else pa.int64()) for name in SUMS]
    schema = pa.schema(types)
    found = [_with_day(schema.empty_table())]
    for day in days:
        table = read_retired(lake, day)
        if table is not None:
            found.append(_with_day(table.select(schema.names).cast(schema), day))
    return pa.concat_tables(found)


def _table_with_day(frame: Any) -> pa.Table:
    from maestro_dagster.costs.frame import table_of

    table = table_of(frame)
    return table.append_column("day", table.column("occurred_at").cast("date32"))


def _with_day(table: pa.Table, day: str | None = None) -> pa.Table:
    from datetime import date

    import pyarrow as pa

    value = date.fromisoformat(day) if day else None
    return table.append_column("day", pa.repeat(pa.scalar(value, pa.date32()), table.num_rows))


def _path(lake: Lake, manifest: DayManifest) -> str:
    return lake.usage.folder(manifest.day).place(manifest.file)


def _quote(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _escape_glob(path: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
