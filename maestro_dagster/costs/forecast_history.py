"""What each day of a period cost, in all and by tenant, model and flow: what forecasts learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.forecast import fill_days
from maestro_dagster.costs.usage_day import list_usage_days

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.costs.usage_day import UsageDay

DIMENSIONS: Final = ("tenant", "model", "flow")
_COLUMNS: Final = ("tenant", "flow", "kind", "provider", "model")


@dataclass(frozen=True, slots=True)
class CostHistory:
    """`parts` is dimension -> name -> day -> nano-USD; `unknown` day -> events without a price.

    What is no model call stands among the models under its kind (`compute`, `network`, ...), so that each
    dimension adds up to the same sum.
    """

    first: str
    last: str
    parts: Mapping[str, Mapping[str, Mapping[str, int]]]
    unknown: Mapping[str, int]

    @property
    def total(self) -> Mapping[str, int]:
        """Day -> nano-USD."""
        sums: dict[str, int] = {}
        for days in self.parts["tenant"].values():
            for day, nano in days.items():
                sums[day] = sums.get(day, 0) + nano
        return sums

    def series(self, by: str | None) -> dict[str, list[tuple[str, int]]]:
        """Name -> (day, nano-USD) of every day of the period; `by` None: one series, named `total`."""
        names = {"total": self.total} if by is None else self.parts[by]
        return {name: fill_days(days, self.first, self.last) for name, days in sorted(names.items())}


def read_history(lake: Lake, spool: Spool | None, *, first: str, last: str) -> CostHistory:
    """Adds up the days from `first` to `last` (YYYY-MM-DD, UTC), those only in the spool too.

    Raises CostError (`lake-damaged`).
    """
    parts: dict[str, dict[str, dict[str, int]]] = {dimension: {} for dimension in DIMENSIONS}
    unknown: dict[str, int] = {}
    for day in list_usage_days(lake, spool, since=first, until=last):
        for row in _add_up(_read_day(day)):
            nano = int(row["cost_usd_sum"].scaleb(9)) if row["cost_usd_sum"] is not None else 0
            unknown[day.day] = unknown.get(day.day, 0) + row["cost_usd_count"]
            for dimension, name in _name_parts(row):
                days = parts[dimension].setdefault(name, {})
                days[day.day] = days.get(day.day, 0) + nano
    return CostHistory(first, last, parts, {day: count for day, count in unknown.items() if count})


def _read_day(day: UsageDay) -> pa.Table:
    import pyarrow as pa

    columns = [*_COLUMNS, "cost_usd"]
    if day.fresh is None:
        table = day.table.read_day(day.day, columns)
        if table is not None:
            return table
    from maestro_dagster.costs.schema import usage_schema

    return pa.Table.from_batches(day.batches(), schema=usage_schema()).select(columns)


def _add_up(table: pa.Table) -> Iterable[Mapping[str, Any]]:
    import pyarrow.compute as pc

    missing = pc.CountOptions(mode="only_null")
    groups = table.group_by(list(_COLUMNS)).aggregate([("cost_usd", "sum"), ("cost_usd", "count", missing)])
    rows: list[Mapping[str, Any]] = groups.to_pylist()
    return rows


def _name_parts(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    model = f"{row['provider']}/{row['model']}" if row["kind"] == "llm" else row["kind"]
    return ("tenant", row["tenant"]), ("model", model), ("flow", row["flow"])
