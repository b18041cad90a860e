"""The columns of the usage lake. Version 1; a new version adds columns and never changes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
COLUMNS = (
    "event_id", "tenant", "run_id", "flow", "step", "iteration", "attempt", "kind", "provider", "model",
    "env", "tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out", "wall_ms",
    "cost_usd", "price", "phase", "outcome", "estimated", "occurred_at",
)  # fmt: skip
SORT = ("tenant", "occurred_at", "event_id")
_COUNTS = ("tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out", "wall_ms")


def usage_schema() -> pa.Schema:
    """Arrow schema of one day's file. Only `cost_usd` may be null: the price is unknown."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = dict.fromkeys(COLUMNS, pa.string())
    types |= dict.fromkeys(_COUNTS, pa.int64())
    types |= {
        "iteration": pa.int32(),
        "attempt": pa.int32(),
        "cost_usd": pa.decimal128(18, 9),
        "estimated": pa.bool_(),
        "occurred_at": pa.timestamp("us", tz="UTC"),
    }
    fields = [pa.field(name, types[name], nullable=name == "cost_usd") for name in COLUMNS]
    return pa.schema(fields, metadata={"maestro.usage.version": str(VERSION)})
