"""What each tenant, project and flow used of a period, as weights to divide shared cost by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.allocate import OVER, UsageByKey

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from maestro_dagster.costs.usage_day import UsageDay

_SUMS: Final = {"cost": ("cost_usd",), "tokens": ("tokens_in", "tokens_out"), "cpu": ("cpu_ms",),
                "memory": ("memory_kb_ms",)}  # fmt: skip
_BATCHES: Final = 32  # of a day that are added up at once; bounds the memory


@dataclass(frozen=True, slots=True)
class Weights:
    """`usage` as `allocate_shared` takes it. `unknown` counts events without a price: they weigh nothing
    in the key `cost`.
    """

    usage: UsageByKey
    events: int
    unknown: int


def weigh_usage(days: Iterable[UsageDay]) -> Weights:
    """Adds up the days. Cost in nano-USD, memory in kilobyte-milliseconds; a run counts once."""
    import polars as pl

    parts: list[pl.DataFrame] = []
    runs: list[pl.DataFrame] = []
    for frame in (frame for day in days for frame in _frames(day)):
        parts.append(
            _add_up(frame, pl.len().alias("events"), pl.col("cost_usd").null_count().alias("unknown"))
        )
        runs.append(frame.select(*OVER, "run_id").unique())
    if not parts:
        return Weights({over: {} for over in OVER}, 0, 0)
    whole = _add_up(pl.concat(parts), pl.col("events").sum(), pl.col("unknown").sum())
    seen = pl.concat(runs).unique()
    return Weights(
        {
            over: _keys(
                whole.group_by(OVER[: depth + 1]).agg(
                    pl.col(name).sum() for pair in _SUMS.values() for name in pair
                ),
                seen.group_by(OVER[: depth + 1]).agg(pl.col("run_id").n_unique().alias("runs")),
                OVER[: depth + 1],
            )
            for depth, over in enumerate(OVER)
        },
        int(whole["events"].sum()),
        int(whole["unknown"].sum()),
    )


def _frames(day: UsageDay) -> Iterator[pl.DataFrame]:
    import polars as pl
    import pyarrow as pa

    columns = [*OVER, "run_id", *(name for pair in _SUMS.values() for name in pair)]
    batches = iter(day.batches())
    while some := [batch.select(columns) for batch in islice(batches, _BATCHES)]:
        table: pa.Table = pa.Table.from_batches(some)
        frame = pl.from_arrow(table)
        if isinstance(frame, pl.DataFrame):
            yield frame


def _add_up(frame: pl.DataFrame, *counts: pl.Expr) -> pl.DataFrame:
    import polars as pl

    sums = [pl.col(name).sum() for pair in _SUMS.values() for name in pair]
    return frame.group_by(*OVER).agg(*sums, *counts)


def _keys(sums: pl.DataFrame, runs: pl.DataFrame, by: tuple[str, ...]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {key: {} for key in (*_SUMS, "runs", "equal")}
    for row in sums.iter_rows(named=True):
        member = "/".join(str(row[name]) for name in by)
        found["equal"][member] = 1
        for key, names in _SUMS.items():
            found[key][member] = sum(_whole(row[name]) for name in names)
    for row in runs.iter_rows(named=True):
        found["runs"]["/".join(str(row[name]) for name in by)] = int(row["runs"])
    return found


def _whole(value: Any) -> int:
    """A sum as a whole number: money, a Decimal of USD, as nano-USD."""
    return value if isinstance(value, int) else 0 if value is None else int(value.scaleb(9))
