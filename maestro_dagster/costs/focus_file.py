"""Reads FOCUS files of anybody: bills of other vendors beside our own, in exact decimals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

_METRICS: Final = ("Cost", "Quantity", "UnitPrice")  # how the names of decimal columns end
_NEEDED: Final = ("BilledCost", "ChargeCategory", "ChargePeriodStart", "ChargePeriodEnd")
_NULLS: Final = ("", "NULL", "null")
_DIGITS, _PLACES = 38, 18


def read_focus(path: Path) -> pa.Table:
    """A CSV or Parquet file of FOCUS 1.0 or later; metrics are DECIMAL(38,18), the rest of a CSV is text.

    Raises CostError (`focus-unreadable`): no FOCUS columns, or a metric that is not in the specification's
    NumericFormat (a currency sign, thousands separators).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table = pq.ParquetFile(path).read() if parquet else _read_csv(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if lacking := [name for name in _NEEDED if name not in table.column_names]:
        raise _unreadable(path, f"it lacks the columns {', '.join(lacking)}")
    for index, name in enumerate(table.column_names):
        if name.endswith(_METRICS):
            table = table.set_column(index, name, _read_metric(table[name], name, path))
    return table


def sum_focus(
    table: pa.Table, metrics: Sequence[str], group: Mapping[str, str]
) -> tuple[int, dict[str, Decimal]]:
    """(rows, exact sum of each metric) of the rows whose columns have the values of `group`."""
    import pyarrow.compute as pc

    for name, value in group.items():
        table = table.filter(pc.equal(table[name], value))
    return table.num_rows, {name: pc.sum(table[name]).as_py() or Decimal(0) for name in metrics}


def _read_csv(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv as pc

    parse = pc.ParseOptions(newlines_in_values=True)
    with pc.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pc.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=list(_NULLS), strings_can_be_null=True
    )
    return pc.read_csv(path, parse_options=parse, convert_options=convert)


def _read_metric(column: Any, name: str, path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
        return column.cast(pa.decimal128(_DIGITS, _PLACES))
    except pa.ArrowException as error:
        raise _unreadable(path, f"{name} is no decimal: {error}") from error


def _unreadable(path: Path, why: str) -> CostError:
    return CostError(
        f"the file is not FOCUS: {why.splitlines()[0][:200]}",
        place=str(path),
        remedy="ask its maker for a file that keeps the specification (https://focus.finops.org)",
        code="focus-unreadable",
    )
