"""Usage events as one file, for tools of others."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.report import sum_known
from maestro_dagster.costs.schema import COLUMNS, MONEY
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano


def export_usage(events: Sequence[UsageEvent], target: Path, form: str) -> dict[str, Any]:
    """Writes `csv` or `parquet`, whole or not at all; gives period, rows, sum and digest.

    An unknown cost is an empty cell or null, never 0. Raises CostError (`disk-full`, `export-write`).
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        (_write_csv if form == "csv" else _write_parquet)(events, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        draft.replace(target)
    except OSError as error:
        raise _refusal(error, target) from error
    finally:
        draft.unlink(missing_ok=True)
    known, unknown = sum_known(events)
    days = sorted(event.occurred_at[:10] for event in events)
    return {
        "file": str(target),
        "format": form,
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
        "rows": len(events),
        "sum_usd": format_nano(known),
        "events_without_price": unknown,
        "digest": f"sha256:{digest}",
    }


def _refusal(error: OSError, target: Path) -> CostError:
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


def _write_csv(events: Sequence[UsageEvent], target: Path) -> None:
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for event in events:
            writer.writerow(_cell(event, name) for name in COLUMNS)


def _cell(event: UsageEvent, name: str) -> object:
    if name in MONEY:
        nano = getattr(event, MONEY[name])
        return "" if nano is None else format_nano(nano)
    return _guard(getattr(event, name))


def _guard(value: object) -> object:
    """A name from a flow must not become a formula in somebody's spreadsheet (OWASP: CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _write_parquet(events: Sequence[UsageEvent], target: Path) -> None:
    import pyarrow.parquet as pq

    from maestro_dagster.costs.frame import frame_events, table_of

    pq.write_table(table_of(frame_events(events)), target, compression="zstd", data_page_version="2.0")
