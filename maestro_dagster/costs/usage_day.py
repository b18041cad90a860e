"""The usage of a period, day by day and batch by batch: what the lake holds, and what only the spool has.

Rows of a day come in the lake's order, each event once, so that a period reads the same whether its usage
has been compacted yet or not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.schema import COLUMNS
from maestro_dagster.costs.table import DayManifest, LakeTable, in_period
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake

_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class UsageDay:
    """A day's usage. `fresh`: rows that the lake lacks; `manifest`: None when the lake has nothing of it."""

    day: str
    table: LakeTable
    manifest: DayManifest | None
    fresh: pl.DataFrame | None = None

    @property
    def fresh_rows(self) -> int:
        return self.fresh.height if self.fresh is not None else 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in the lake's schema and order. Raises CostError (`lake-damaged`, `day-moved`)."""
        if self.fresh is None:
            yield from _stream_day(self.table, self.day, self.manifest)
            return
        from maestro_dagster.costs.frame import frame_of, merge_frames, table_of

        stored = self.table.read_day(self.day)
        known = [] if stored is None else [frame_of(stored)]
        yield from table_of(merge_frames([*known, self.fresh])).to_batches(_BATCH_ROWS)


def list_usage_days(
    lake: Lake, spool: UsageSpool | None = None, *, since: str | None = None, until: str | None = None
) -> Iterator[UsageDay]:
    """The days from `since` up to and including `until` (YYYY-MM-DD) that have usage, ascending.

    Without a spool: only what has been published. Raises CostError (`spool-corrupt`, `event-invalid`).
    """
    from maestro_dagster.costs.stage import collect_day

    spooled = set(spool.days()) if spool is not None else set()
    for day in sorted(spooled | set(lake.usage.days())):
        if in_period(day, since, until):
            fresh = None
            if spool is not None and day in spooled:
                # The spool first: what a compaction removes from it meanwhile is in the lake by then.
                frame, _ = collect_day(spool, day)
                fresh = _lacking(lake.usage, day, frame.drop("source"))
            manifest = lake.usage.manifest(day)
            if (manifest is not None and manifest.rows) or (fresh is not None and fresh.height):
                yield UsageDay(
                    day, lake.usage, manifest, fresh if fresh is not None and fresh.height else None
                )


def _lacking(table: LakeTable, day: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows that the lake does not have, or has only as a reserve that was settled since."""
    import polars as pl

    stored = table.read_day(day, ["event_id", "phase"])
    if stored is None:
        return frame
    known = pl.from_arrow(stored)
    if not isinstance(known, pl.DataFrame):
        raise TypeError("a table became no frame")
    settled = known.filter(pl.col("phase") == "settled").select("event_id")
    return frame.join(known, on=["event_id", "phase"], how="anti").join(settled, on="event_id", how="anti")


def _stream_day(table: LakeTable, day: str, manifest: DayManifest | None) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if manifest is None:
        return
    folder = table.folder(day)
    place = folder.place(manifest.file)
    try:
        with contextlib.ExitStack() as stack:
            source = folder.open(manifest.file)
            if hasattr(source, "close"):
                stack.callback(source.close)
            _check_bytes(source, manifest, place)
            file = pq.ParquetFile(source, page_checksum_verification=True)
            whole = set(COLUMNS) <= set(file.schema_arrow.names)
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from [batch.select(list(COLUMNS))] if whole else _complete(batch)
    except FileNotFoundError as error:
        raise CostError(
            "a day was compacted again while it was read",
            place=place,
            remedy="try again; if it stays, run `maestro cost compact`",
            code="day-moved",
        ) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # damage shows in many ways
        raise CostError(
            f"a day's file cannot be read: {str(error)[:100]}",
            place=place,
            remedy="restore the day's folder from a backup, or remove it and compact the day again",
            code="lake-damaged",
        ) from error


def _check_bytes(source: Any, manifest: DayManifest, place: str) -> None:
    """A statement names the digests of what it was made from, so these bytes must be those."""
    if hasattr(source, "read"):
        digest = hashlib.file_digest(source, "sha256")
        source.seek(0)
    else:
        with Path(source).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    if digest.hexdigest() != manifest.sha256:
        raise CostError(
            "a day's file is not the one that was published",
            place=place,
            remedy="restore the day's folder from a backup, or remove it and compact the day again",
            code="lake-damaged",
        )


def _complete(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    import pyarrow as pa

    from maestro_dagster.costs.schema import complete_usage

    batches: list[pa.RecordBatch] = complete_usage(pa.Table.from_batches([batch])).to_batches()
    return batches
