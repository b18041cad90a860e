"""Cubes: the usage of a day added up by what people ask for, so that a question reads thousands of rows.

A cube's manifest names the usage file that it was made of (`source`); with another file published it is
stale and is built again, that day alone. Rows that retention has removed stay in the cubes: their sums stand
in `usage_retired` (`costs.removal`), so usage + retired = each cube, which is checked before it is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from maestro_dagster.costs.schema import COUNTS
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.table import DayManifest

CUBES: Final = {
    "cube_day_tenant": ("tenant", "project", "env", "kind", "outcome", "phase"),
    "cube_day_model": ("tenant", "env", "kind", "provider", "model"),
    "cube_day_flow_step": ("tenant", "project", "env", "flow", "step", "kind", "outcome", "retry"),
}
SUMS: Final = ("events", "unknown", "cost_usd", *COUNTS)
_GRAIN: Final = tuple(dict.fromkeys(name for grain in CUBES.values() for name in grain))
_WHOLE: Final = 2.0**63  # what an int64 holds; a float is near enough to see that a sum does not fit


@dataclass(frozen=True, slots=True)
class CubeDay:
    """A published cube of a day. `events` and `unknown` count usage rows; `rows` are the cube's own."""

    name: str
    rows: int
    events: int
    sum_nano: int
    unknown: int
    sha256: str
    rebuilt: bool


@dataclass(frozen=True, slots=True)
class CubeReport:
    """What the cubes of a day must add up to (usage and what retention removed), and what they do."""

    day: str
    source: str
    events: int
    sum_nano: int
    unknown: int
    retired_events: int
    cubes: tuple[CubeDay, ...]

    @property
    def balanced(self) -> bool:
        wanted = self.events, self.sum_nano, self.unknown
        return all((cube.events, cube.sum_nano, cube.unknown) == wanted for cube in self.cubes)


def build_cubes(lake: Lake, day: str) -> CubeReport:
    """Builds the day's cubes that are stale or missing; a cube that is current is only read and added up.

    Of a day that has not been published there are none. Raises CostError (`cube-unbalanced`), and then the
    cubes published before stay.
    """
    found = _read_rows(lake, day)
    if found is None:
        return CubeReport(day, "", 0, 0, 0, 0, ())
    manifest, rows = found
    cubes = tuple(_publish(lake, name, manifest, rows) for name in CUBES)
    events, nano, unknown = _wanted(manifest)
    return CubeReport(day, manifest.sha256, events, nano, unknown, manifest.retired["rows"], cubes)


def stale_days(lake: Lake, since: str | None = None, until: str | None = None) -> tuple[str, ...]:
    """Days with usage that a cube lacks or shows as it was before, ascending."""
    from maestro_dagster.costs.table import in_period

    days = (day for day in lake.usage.days() if in_period(day, since, until))
    return tuple(day for day in days if not _is_current(lake, day))


def cube_schema(name: str) -> pa.Schema:
    """Arrow schema of a cube: its grain, then `SUMS`. `cost_usd` is null where no event has a price."""
    import pyarrow as pa

    grain = [pa.field(column, pa.bool_() if column == "retry" else pa.string()) for column in CUBES[name]]
    money = pa.field("cost_usd", pa.decimal128(28, 9))
    return pa.schema([*grain, *(money if column == "cost_usd" else pa.field(column, pa.int64())
                                for column in SUMS)])  # fmt: skip


def _is_current(lake: Lake, day: str) -> bool:
    manifest = lake.usage.manifest(day)
    cubes = (lake.table(name).manifest(day) for name in CUBES)
    return manifest is None or all(cube is not None and cube.source == manifest.sha256 for cube in cubes)


def _read_rows(lake: Lake, day: str) -> tuple[DayManifest, pl.DataFrame | None] | None:
    """The day's manifest and, if a cube is not of this file, what is to be added up; None without usage."""
    from maestro_dagster.costs.removal import read_retired

    while (manifest := lake.usage.manifest(day)) is not None:
        if _is_current(lake, day):
            return manifest, None
        names = [name for name in _GRAIN if name != "retry"]
        table = lake.usage.read_day(day, [*names, "attempt", "cost_usd", *COUNTS])
        retired = read_retired(lake, day)
        if table is not None and lake.usage.manifest(day) == manifest:  # else it has just been replaced
            return manifest, frame_rows(table, retired)
    return None


def frame_rows(table: pa.Table, retired: pa.Table | None = None) -> pl.DataFrame:
    """Usage rows, and sums of retired ones, as rows of `_GRAIN` and `SUMS`: each usage row is one event.

    Raises CostError (`cube-unbalanced`) when a sum of counts is too large for a column.
    """
    import polars as pl

    rows = _frame(table).with_columns(
        retry=pl.col("attempt") > 1,
        events=pl.lit(1, pl.Int64),
        unknown=pl.col("cost_usd").is_null().cast(pl.Int64),
    )
    columns = [*(pl.col(name) for name in _GRAIN), *(pl.col(name) for name in SUMS)]
    wide = pl.col("cost_usd").cast(pl.Decimal(38, 9))
    rows = rows.select(columns).with_columns(wide)
    if retired is not None and retired.num_rows:
        rows = pl.concat([rows, _frame(retired).select(columns).with_columns(wide)])
    sums = rows.select(pl.col(COUNTS).cast(pl.Float64).sum())
    if any(total >= _WHOLE for total in sums.row(0)):
        raise _unbalanced("a day's counts are too large to be added up", "")
    return rows


def _publish(lake: Lake, name: str, manifest: DayManifest, rows: pl.DataFrame | None) -> CubeDay:
    import pyarrow.compute as pc

    table = lake.table(name)
    with table.lock_day(manifest.day):
        published = table.manifest(manifest.day)
        rebuilt = rows is not None and (published is None or published.source != manifest.sha256)
        if rows is not None and rebuilt:
            cube = add_up(rows, name)
            _check(cube, name, manifest, rows)
            published = table.write_day(manifest.day, cube, source=manifest.sha256)
            events = int(pc.sum(cube.column("events")).as_py() or 0)
        else:
            held = table.read_day(manifest.day, ["events"])
            events = int(pc.sum(held.column("events")).as_py() or 0) if held is not None else 0
    if published is None:
        raise _unbalanced(f"{name} of {manifest.day} was removed while it was looked at", name)
    return CubeDay(
        name, published.rows, events, published.sum_nano, published.unknown, published.sha256, rebuilt
    )


def add_up(rows: pl.DataFrame, name: str) -> pa.Table:
    """The cube of rows as `frame_rows` gives them. Sums of decimals and whole numbers, exact."""
    import polars as pl

    grain = list(CUBES[name])
    cube = rows.group_by(grain).agg(pl.col(SUMS).sum())
    # A sum of nothing known is unknown, not 0.
    known = pl.when(pl.col("events") > pl.col("unknown")).then(pl.col("cost_usd"))
    return cube.with_columns(known.alias("cost_usd")).sort(grain).to_arrow().cast(cube_schema(name))


def _check(cube: pa.Table, name: str, manifest: DayManifest, rows: pl.DataFrame) -> None:
    import polars as pl
    import pyarrow.compute as pc

    from maestro_dagster.costs.table import measure

    found = (int(pc.sum(cube.column("events")).as_py() or 0), *measure(cube))
    wanted = _wanted(manifest)
    if found != wanted:
        raise _unbalanced(
            f"{name} of {manifest.day} has {found[0]} events of {format_nano(found[1])} USD, {found[2]} "
            f"without a price, the usage {wanted[0]} of {format_nano(wanted[1])} USD, {wanted[2]} without",
            manifest.file,
        )
    counted = tuple(int(pc.sum(cube.column(column)).as_py() or 0) for column in COUNTS)
    if counted != rows.select(pl.col(COUNTS).sum()).row(0):
        raise _unbalanced(f"the counts of {name} are not those of the usage of {manifest.day}", manifest.file)


def _wanted(manifest: DayManifest) -> tuple[int, int, int]:
    retired = manifest.retired
    return (
        manifest.rows + retired["rows"],
        manifest.sum_nano + retired["sum_nano"],
        manifest.unknown + retired["unknown"],
    )


def _frame(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a table became no frame")
    return frame


def _unbalanced(fact: str, place: str) -> CostError:
    remedy = "run `maestro doctor`, verify the day, and compact it again; the cube published before stays"
    return CostError(fact, place=place, remedy=remedy, code="cube-unbalanced")
