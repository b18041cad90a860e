"""The columns of the usage lake. A new version adds columns and never changes one.

Version 1: up to `occurred_at`. Version 2: the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
COLUMNS = (
    "event_id", "tenant", "run_id", "flow", "step", "iteration", "attempt", "kind", "provider", "model",
    "env", "tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out", "wall_ms",
    "cost_usd", "price", "phase", "outcome", "estimated", "occurred_at",
    "project", "retention_tier", "subject", "tokens_cache_write", "tokens_reasoning", "memory_kb_ms",
    "usd_in", "usd_out", "usd_cached", "usd_cache_write",
)  # fmt: skip
SORT = ("tenant", "occurred_at", "event_id")
COUNTS = (
    "tokens_in", "tokens_out", "tokens_cached", "tokens_cache_write", "tokens_reasoning", "cpu_ms",
    "memory_kb_ms", "bytes_in", "bytes_out", "wall_ms",
)  # fmt: skip
MONEY = {  # column of the lake, DECIMAL(18,9) USD -> field of an event and of a frame, whole nano-USD
    "cost_usd": "cost_nano",
    "usd_in": "nano_in",
    "usd_out": "nano_out",
    "usd_cached": "nano_cached",
    "usd_cache_write": "nano_cache_write",
}
_DIFFERENCES = (*MONEY, "occurred_at")  # all differ, and neighbours are near each other
# What zstd makes less than a fifth smaller is left as it is: 1 % more bytes, 5 % less time to add them up.
_DENSE = (*_DIFFERENCES, "tenant", "project", "flow", "step", "provider", "model", "price", "subject")
# Money as 64-bit integers: half the work of reading it as bytes. Files of before are read as well.
USAGE_LAYOUT: dict[str, Any] = {
    "store_decimal_as_integer": True,
    "use_dictionary": [name for name in COLUMNS if name not in (*_DIFFERENCES, "event_id")],
    "column_encoding": dict.fromkeys(_DIFFERENCES, "DELTA_BINARY_PACKED"),
    "compression": {name: "none" if name in _DENSE else "zstd" for name in COLUMNS},
}
_EARLIER = {"project": "default", "retention_tier": "standard-365d"}


def usage_schema() -> pa.Schema:
    """Arrow schema of one day's file. Only money may be null: the price is unknown."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = dict.fromkeys(COLUMNS, pa.string())
    types |= dict.fromkeys(COUNTS, pa.int64())
    types |= dict.fromkeys(MONEY, pa.decimal128(18, 9))
    types |= {
        "iteration": pa.int32(),
        "attempt": pa.int32(),
        "estimated": pa.bool_(),
        "occurred_at": pa.timestamp("us", tz="UTC"),
    }
    fields = [pa.field(name, types[name], nullable=name in MONEY) for name in COLUMNS]
    return pa.schema(fields, metadata={"maestro.usage.version": str(VERSION)})


def complete_usage(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Gives what was read of an older file the columns that came later, at what they meant then."""
    import pyarrow as pa

    schema = usage_schema()
    lacking = [name for name in columns or COLUMNS if name not in table.column_names and name in COLUMNS]
    for name in lacking:
        item = schema.field(name)
        empty = None if item.nullable else _EARLIER.get(name, "" if item.type == pa.string() else 0)
        table = table.append_column(item, pa.repeat(pa.scalar(empty, item.type), table.num_rows))
    return table.select(list(columns or COLUMNS)) if lacking else table
