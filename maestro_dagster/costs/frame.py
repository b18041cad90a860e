"""Between usage events, polars frames and Arrow tables, without a cent lost.

In a frame money is `cost_nano`, whole numbers; in a table it is `cost_usd`, DECIMAL(18,9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.line import FIELDS, REQUIRED, USUAL, corrupt_line
from maestro_dagster.costs.schema import COLUMNS, COUNTS, MONEY, SORT, usage_schema
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_WIDEST = 10**18
_FILLED = {name: usual for name, usual in USUAL.items() if usual is not None and name not in REQUIRED}
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


def frame_lines(data: bytes) -> pl.DataFrame:
    """A row per line of a spool (`costs.chunk`), as `frame_events` gives them.

    Raises CostError (`spool-corrupt`) without a place: `read_source` of the spool finds it.
    """
    import polars as pl

    types = _frame_types()
    try:
        frame = pl.read_ndjson(data, schema={name: types.get(name, pl.String) for name in FIELDS})
        lacking = frame.select(pl.any_horizontal(pl.col(REQUIRED).null_count() > 0)).item()
        frame = frame.with_columns(
            *(pl.col(name).fill_null(usual) for name, usual in _FILLED.items()),
            pl.col("occurred_at").str.to_datetime(_TEXT_TIME, time_unit="us", time_zone="UTC", exact=True),
        )
    except pl.exceptions.PolarsError as error:
        raise corrupt_line(str(error).splitlines()[0][:100]) from None
    if lacking or not frame["phase"].is_in(["intent", "settled"]).all():
        raise corrupt_line("")
    return frame


def table_of(frame: pl.DataFrame) -> pa.Table:
    """The table in the lake's schema and order. Raises CostError (`event-invalid`)."""
    import pyarrow as pa

    table = sort_frame(frame).to_arrow()
    try:
        for usd, nano in MONEY.items():
            table = table.append_column(usd, _money_of(table.column(nano)))
        return table.select(list(COLUMNS)).cast(usage_schema())
    except pa.ArrowInvalid as error:
        raise CostError(f"usage does not fit the lake: {error}", code="event-invalid") from None


def frame_of(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    for usd, nano in MONEY.items():
        table = table.append_column(nano, nano_of(table.column(usd)))
    frame = pl.from_arrow(table.select(list(FIELDS)))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a table became no frame")
    return frame


def sort_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """In the lake's order. Sorts three columns and moves the rest once."""
    import polars as pl

    order = frame.select(pl.arg_sort_by(SORT)).to_series()
    return frame if order.is_sorted() else frame[order]


def merge_frames(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each event id once: a settlement before an intent, what stands earlier before what stands later."""
    import polars as pl

    both = pl.concat(frames, how="vertical_relaxed")
    if both["event_id"].n_unique() == both.height:
        return both
    narrow = both.select("event_id", pl.col("phase") != "settled").with_row_index("row")
    first = narrow.sort("phase", maintain_order=True).unique("event_id", keep="first", maintain_order=True)
    return both[first["row"]]


def sum_frame(frame: pl.DataFrame) -> tuple[int, int]:
    """(nano-USD of the rows that have a price, how many have none)."""
    import polars as pl

    cost = frame["cost_nano"]
    return int(cost.cast(pl.Int128).sum() or 0), cost.null_count()


def _money_of(nano: pa.ChunkedArray) -> pa.Array:
    """Whole nano-USD as DECIMAL(18,9): the same number, in two words instead of one."""
    import numpy as np
    import pyarrow as pa

    whole = nano.combine_chunks() if isinstance(nano, pa.ChunkedArray) else nano
    values = whole.fill_null(0).to_numpy(zero_copy_only=False)
    if len(values) and (values.max() >= _WIDEST or values.min() <= -_WIDEST):
        raise pa.ArrowInvalid("a cost is beyond 999,999,999 USD")
    words = np.empty((len(values), 2), dtype="<i8")
    words[:, 0] = values
    words[:, 1] = values >> 63
    valid = whole.is_valid()
    bits = pa.py_buffer(np.packbits(valid.to_numpy(zero_copy_only=False), bitorder="little").tobytes())
    return pa.Array.from_buffers(
        pa.decimal128(18, 9), len(values), [bits if whole.null_count else None, pa.py_buffer(words)]
    )


def nano_of(money: pa.ChunkedArray) -> pa.Array:
    """DECIMAL(18,9) as whole nano-USD; 18 digits fit in one word."""
    import numpy as np
    import pyarrow as pa

    if money.type != pa.decimal128(18, 9):
        raise pa.ArrowInvalid(f"money is {money.type}, not decimal128(18, 9)")
    whole = pa.concat_arrays(money.chunks) if money.num_chunks else pa.array([], money.type)
    words = np.frombuffer(whole.buffers()[1] or b"", dtype="<i8").reshape(-1, 2)
    values = words[whole.offset : whole.offset + len(whole), 0]
    return pa.array(values, pa.int64(), mask=whole.is_null().to_numpy(zero_copy_only=False))


def _frame_types() -> dict[str, pl.DataType | type[pl.DataType]]:
    import polars as pl

    types: dict[str, pl.DataType | type[pl.DataType]] = dict.fromkeys((*COUNTS, *MONEY.values()), pl.Int64)
    return types | {"iteration": pl.Int32, "attempt": pl.Int32, "estimated": pl.Boolean}
