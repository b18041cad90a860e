"""Between usage events, polars frames and Arrow tables, without a cent lost.

In a frame money is `cost_nano`, whole numbers; in a table it is `cost_usd`, DECIMAL(18,9).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.schema import COLUMNS, COUNTS, MONEY, SORT, usage_schema
from maestro_dagster.costs.spool import FIELDS
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_TEXT_TIME = "%Y-%m-%dT%H:%M:%S%.6fZ"


def frame_events(events: Sequence[UsageEvent]) -> pl.DataFrame:
    """A row per event. Raises CostError (`event-invalid`) for values that no column can hold."""
    import polars as pl

    types = _frame_types()
    columns = {name: [getattr(event, name) for event in events] for name in FIELDS}
    try:
        frame = pl.DataFrame(
            columns, schema={name: types.get(name, pl.String) for name in FIELDS}, strict=True
        )
        return frame.with_columns(
            pl.col("occurred_at").str.to_datetime(_TEXT_TIME, time_unit="us", time_zone="UTC")
        )
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise CostError(
            f"a usage event does not fit the lake: {str(error).splitlines()[0][:200]}",
            remedy="look for the event in the spool and correct its writer",
            code="event-invalid",
        ) from None


def list_events(frame: pl.DataFrame) -> list[UsageEvent]:
    import polars as pl

    text = frame.with_columns(pl.col("occurred_at").dt.strftime(_TEXT_TIME)).select(FIELDS)
    return [UsageEvent(*row) for row in text.iter_rows()]


def table_of(frame: pl.DataFrame) -> pa.Table:
    """The table in the lake's schema and order. Raises CostError (`event-invalid`)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = frame.sort(SORT).to_arrow()
    try:
        for usd, nano in MONEY.items():
            whole = table.column(nano).cast(pa.decimal128(19, 0))
            exact = pc.multiply(whole, pa.scalar(Decimal("1E-9"), pa.decimal128(10, 9)))
            table = table.append_column(usd, exact.cast(pa.decimal128(18, 9)))
        table = table.select(list(COLUMNS))
        return table.cast(usage_schema())
    except pa.ArrowInvalid as error:
        raise CostError(f"usage does not fit the lake: {error}", code="event-invalid") from None


def frame_of(table: pa.Table) -> pl.DataFrame:
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc

    for usd, nano in MONEY.items():
        scaled = pc.multiply(table.column(usd), pa.scalar(Decimal(10**9), pa.decimal128(10, 0)))
        table = table.append_column(nano, scaled.cast(pa.decimal128(29, 0)).cast(pa.int64()))
    frame = pl.from_arrow(table.select(list(FIELDS)))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a table became no frame")
    return frame


def merge_frames(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each event id once: a settlement before an intent, what stands earlier before what stands later."""
    import polars as pl

    both = pl.concat(frames, how="vertical_relaxed")
    settled_first = both.sort(pl.col("phase") != "settled", maintain_order=True)
    return settled_first.unique("event_id", keep="first", maintain_order=True)


def sum_frame(frame: pl.DataFrame) -> tuple[int, int]:
    """(nano-USD of the rows that have a price, how many have none)."""
    return int(frame["cost_nano"].sum() or 0), frame["cost_nano"].null_count()


def _frame_types() -> dict[str, pl.DataType | type[pl.DataType]]:
    import polars as pl

    types: dict[str, pl.DataType | type[pl.DataType]] = dict.fromkeys((*COUNTS, *MONEY.values()), pl.Int64)
    return types | {"iteration": pl.Int32, "attempt": pl.Int32, "estimated": pl.Boolean}
