"""Usage of a period as one file, for tools of others: CSV, Parquet, or FOCUS 1.2 in either.

Rows pass through in batches of Arrow; no event becomes a Python object. The same usage gives the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from maestro_dagster.costs.schema import COUNTS, usage_schema
from maestro_dagster.costs.statement import FORMATS, ExportSource, ExportStatement
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.focus import Charge
    from maestro_dagster.costs.usage_day import UsageDay

_GROUP_ROWS = 131_072  # of a row group
_PIECE_ROWS = 32_768  # of a piece of what is wider: rows of FOCUS, and any row as text
# What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection), full-width forms too.
_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_TIME = {"csv": "%Y-%m-%dT%H:%M:%S%.6fZ", "focus-csv": "%Y-%m-%dT%H:%M:%SZ"}

Progress = Callable[[str, int], None]  # the day at hand, events so far


@dataclass(slots=True)
class _Tally:
    """What was read of the usage."""

    events: int = 0
    nano: int = 0
    unknown: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    sources: list[ExportSource] = field(default_factory=list)


def export_usage(
    days: Iterable[UsageDay],
    target: Path,
    form: str,
    *,
    since: str | None = None,
    until: str | None = None,
    charges: Sequence[Charge] = (),
    progress: Progress | None = None,
) -> ExportStatement:
    """Writes `csv`, `parquet`, `focus` or `focus-csv`, whole or not at all.

    An unknown cost is an empty cell or null, never 0; FOCUS has no place for it and leaves such events out,
    which the statement says. `charges` are appended to a FOCUS file. Raises CostError (`disk-full`,
    `export-write`, `export-sum`, `lake-damaged`, `day-moved`).
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    tally = _Tally()
    try:
        with _open_writer(draft, form) as writer:
            rows = _GROUP_ROWS if form == "parquet" else _PIECE_ROWS
            for piece in _split(_read(days, form, tally, charges, draft, progress), rows):
                writer.write(piece)
        digest, size = _settle(draft)
        rows, nano, unknown = measure_export(draft, form)
        expected = tally.nano + sum(charge.nano for charge in charges)
        if (nano, unknown) != (expected, 0 if form.startswith("focus") else tally.unknown):
            raise CostError("the export does not read back as it was written", place=str(target),
                            remedy="look at the disk, then export again", code="export-sum")  # fmt: skip
        draft.replace(target)
    except OSError as error:
        raise export_error(error, target) from error
    finally:
        draft.unlink(missing_ok=True)
    return ExportStatement(
        file=target.name,
        format=form,
        since=since,
        until=until,
        rows=rows,
        events=tally.events,
        sum_nano=nano,
        unknown=tally.unknown,
        size=size,
        digest=digest,
        sources=tuple(tally.sources),
        charge_rows=len(charges),
        charge_nano=sum(charge.nano for charge in charges),
        left_out=dict(sorted(tally.left_out.items())) if form.startswith("focus") else {},
    )


def measure_export(path: Path, form: str) -> tuple[int, int, int]:
    """(rows, nano-USD, rows without a price) of an exported file, read batch by batch.

    Raises CostError (`export-damaged`).
    """
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    name = "BilledCost" if form.startswith("focus") else "cost_usd"
    rows = nano = unknown = 0
    try:
        if FORMATS[form] == ".csv":
            batches = pc.open_csv(
                path,
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=pc.ConvertOptions(
                    include_columns=[name], column_types={name: pa.decimal128(38, 9)}, null_values=[""]
                ),
            )
        else:
            batches = pq.ParquetFile(path, page_checksum_verification=True).iter_batches(columns=[name])
        for batch in batches:
            rows += batch.num_rows
            nano += sum_nano(batch.column(0))
            unknown += batch.column(0).null_count
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CostError(
            f"the export cannot be read: {str(error)[:100]}", place=str(path), code="export-damaged"
        ) from error
    return rows, nano, unknown


def sum_nano(column: Any) -> int:
    """Nano-USD of a decimal column with nine places, exact."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = pc.sum(column.cast(pa.decimal128(38, 9))).as_py()
    return 0 if total is None else int(total.scaleb(9))


def hash_file(path: Path) -> str:
    """`sha256:<hex>`, read piece by piece."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read(
    days: Iterable[UsageDay],
    form: str,
    tally: _Tally,
    charges: Sequence[Charge],
    draft: Path,
    progress: Progress | None,
) -> Iterator[pa.RecordBatch]:
    from maestro_dagster.costs.focus import focus_batches, table_of_charges

    for day in days:
        tally.sources.append(_source(day))
        batches = _count(day.batches(), tally)
        if form.startswith("focus"):
            batches = focus_batches(batches, scratch=draft.parent)
        for batch in batches:
            yield batch
            if progress is not None:
                progress(day.day, tally.events)
    if charges and form.startswith("focus"):
        yield from table_of_charges(charges).to_batches()


def _count(batches: Iterable[pa.RecordBatch], tally: _Tally) -> Iterator[pa.RecordBatch]:
    import pyarrow.compute as pc

    for batch in batches:
        cost = batch.column("cost_usd")
        tally.events += batch.num_rows
        tally.nano += sum_nano(cost)
        if cost.null_count:
            tally.unknown += cost.null_count
            lost = batch.filter(pc.is_null(cost))
            sums = {name: int(pc.sum(lost.column(name)).as_py() or 0) for name in COUNTS}
            tally.left_out.update({name: value for name, value in sums.items() if value})
        yield batch


def _split(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly so many rows but for the last: what is written must not depend on the reader."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows).combine_chunks()
            held, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(held).combine_chunks()


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, *_: object) -> None: ...


def _open_writer(path: Path, form: str) -> _Writer:
    from maestro_dagster.costs.focus import focus_schema

    schema = focus_schema() if form.startswith("focus") else usage_schema()
    return _CsvWriter(path, schema, _TIME[form]) if form in _TIME else _ParquetWriter(path, schema)


class _ParquetWriter:
    """zstd, V2 pages with checksums, as in the lake."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", data_page_version="2.0", write_page_checksum=True
        )

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table.cast(self._schema), row_group_size=_GROUP_ROWS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer.close()


class _CsvWriter:
    """RFC 4180 with a header; UTF-8; times end in Z; a missing value is an empty cell."""

    def __init__(self, path: Path, schema: pa.Schema, time: str) -> None:
        self._schema, self._time = schema, time
        self._header = True
        self._file = path.open("wb")

    def write(self, table: pa.Table) -> None:
        import polars as pl

        frame = pl.from_arrow(table.cast(self._schema))
        if not isinstance(frame, pl.DataFrame):
            raise TypeError("a table became no frame")
        # A name from a flow must not become a formula in somebody's spreadsheet.
        guarded = [
            pl.when(pl.col(name).str.contains(_FORMULA))
            .then(pl.concat_str(pl.lit("'"), pl.col(name)))
            .otherwise(pl.col(name))
            .alias(name)
            for name, kind in frame.schema.items()
            if kind == pl.String
        ]
        text = frame.with_columns(guarded).write_csv(
            include_header=self._header, datetime_format=self._time, null_value=""
        )
        self._file.write(text.encode())  # by us: polars would hide why a write failed
        self._header = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self._header and kind is None:  # nothing was used
                self.write(self._schema.empty_table())
        finally:
            self._file.close()


def _settle(draft: Path) -> tuple[str, int]:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return hash_file(draft), size


def _source(day: UsageDay) -> ExportSource:
    digest = f"sha256:{day.manifest.sha256}" if day.manifest else None
    return ExportSource(day.day, digest, day.fresh_rows)


def export_error(error: OSError, target: Path) -> CostError:
    """`disk-full` or `export-write`, with what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        remedy = "free some space there, or name a file on another disk; nothing is lost"
        return CostError("the disk is full, the export was not written", place=str(target), remedy=remedy,
                         code="disk-full")  # fmt: skip
    return CostError(
        f"the export cannot be written: {error.strerror or error}",
        place=str(target),
        remedy="name a file in a folder that exists and that you may write to",
        code="export-write",
    )
