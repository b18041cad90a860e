"""The usage lake: one Parquet file a day, and beside it a manifest that says which.

    lake/usage_daily/day=2026-01-31/manifest.json      the commit point: swapped, never edited
    lake/usage_daily/day=2026-01-31/part-<sha256>.parquet

A reader that follows the manifests never sees a day half-written; any Parquet tool may read the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.schema import VERSION
from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

TABLE = "usage_daily"
_MANIFEST = "manifest.json"
_SHORT = 16


@dataclass(frozen=True, slots=True)
class DayManifest:
    """`sum_nano` adds the rows that have a price, `unknown` counts the others. `sha256` is the file's."""

    day: str
    version: int
    file: str
    sha256: str
    size: int
    rows: int
    sum_nano: int
    unknown: int


class Lake:
    """A lake in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table = folder / TABLE

    def days(self) -> tuple[str, ...]:
        """Days that have been published, ascending."""
        return tuple(sorted(path.parent.name[4:] for path in self._table.glob(f"day=*/{_MANIFEST}")))

    def manifest(self, day: str) -> DayManifest | None:
        path = self._day(day) / _MANIFEST
        try:
            value: Any = json.loads(path.read_bytes())
            return DayManifest(**{field.name: value[field.name] for field in fields(DayManifest)})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged("the manifest of a day cannot be read", path) from error

    def file(self, day: str) -> Path | None:
        manifest = self.manifest(day)
        return self._day(day) / manifest.file if manifest else None

    def read_day(self, day: str, run_id: str | None = None) -> pl.DataFrame | None:
        """The day's rows as a frame (`costs.frame`), None when nothing was published for it."""
        from maestro_dagster.costs.frame import frame_of

        while (path := self.file(day)) is not None:
            try:
                return frame_of(_read_table(path, run_id))
            except CostError:
                if self.file(day) == path:  # else a compaction has just replaced it
                    raise
        return None

    def read_events(
        self, *, run_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> list[UsageEvent]:
        """Events of the days from `since` up to and including `until` (YYYY-MM-DD)."""
        from maestro_dagster.costs.frame import list_events

        found: list[UsageEvent] = []
        for day in self.days():
            if (since is None or day >= since) and (until is None or day <= until):
                frame = self.read_day(day, run_id)
                found += list_events(frame) if frame is not None else []
        return found

    def write_day(self, day: str, frame: pl.DataFrame) -> DayManifest:
        """Publishes the day; its lock is held. Raises CostError (`disk-full`, `lake-verify`)."""
        import pyarrow.parquet as pq

        from maestro_dagster.costs.frame import frame_of, sum_frame, table_of

        folder = self._day(day)
        for left in (*folder.glob(".draft-*"), *folder.glob(".manifest-*")):  # of a writer that was killed
            left.unlink(missing_ok=True)
        known, unknown = sum_frame(frame)
        table = table_of(frame)
        draft = folder / f".draft-{os.getpid()}"
        try:
            pq.write_table(
                table, draft, compression="zstd", data_page_version="2.0", write_page_checksum=True
            )
            _sync(draft)
            written = frame_of(_read_table(draft, None))
            if sum_frame(written) != (known, unknown) or written.height != frame.height:
                raise _damaged("a day's file does not read back as it was written", draft, "lake-verify")
            data = draft.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            manifest = DayManifest(
                day,
                VERSION,
                f"part-{sha256[:_SHORT]}.parquet",
                sha256,
                len(data),
                frame.height,
                known,
                unknown,
            )
            draft.replace(folder / manifest.file)
            self._swap(folder, manifest)
        except OSError as error:
            raise write_error(error, folder) from error
        finally:
            draft.unlink(missing_ok=True)
        return manifest

    def verify_day(self, day: str) -> DayManifest:
        """Checks bytes, rows and sum of a day. Raises CostError (`lake-damaged`, `day-missing`)."""
        from maestro_dagster.costs.frame import frame_of, sum_frame

        manifest = self.manifest(day)
        if manifest is None:
            raise CostError(f"no usage of {day} is in the lake", place=str(self.folder), code="day-missing")
        path = self._day(day) / manifest.file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != manifest.sha256:
            raise _damaged("a day's file is not the one that was published", path)
        frame = frame_of(_read_table(path, None))
        if (frame.height, *sum_frame(frame)) != (manifest.rows, manifest.sum_nano, manifest.unknown):
            raise _damaged("a day's file does not hold what its manifest says", path)
        return manifest

    @contextlib.contextmanager
    def lock_day(self, day: str) -> Iterator[None]:
        """One writer of a day at a time, on this machine; others wait."""
        folder = self._day(day)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(error, folder) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _swap(self, folder: Path, manifest: DayManifest) -> None:
        draft = folder / f".manifest-{os.getpid()}"
        draft.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _sync(draft)
        draft.replace(folder / _MANIFEST)
        _sync(folder)
        for path in folder.glob("part-*.parquet"):
            if path.name != manifest.file:
                path.unlink(missing_ok=True)

    def _day(self, day: str) -> Path:
        return self._table / f"day={parse_day(day)}"


def open_lake(location: str | Path) -> Lake:
    """A lake in a folder. Raises CostError (`lake-location`) for a URL, which nothing here can write yet."""
    text = str(location).removeprefix("file://")
    if "://" in text:
        raise CostError(
            "the usage lake must be a folder",
            place=text,
            remedy="set `lake` in [tool.maestro] to a path",
            code="lake-location",
        )
    return Lake(Path(text))


def lake_total(lake: Lake, run_id: str) -> tuple[int, int]:
    """(nano-USD, events without a price) of a run over all days."""
    from maestro_dagster.costs.frame import sum_frame

    frames = [lake.read_day(day, run_id) for day in lake.days()]
    sums = [sum_frame(frame) for frame in frames if frame is not None]
    return sum(known for known, _ in sums), sum(unknown for _, unknown in sums)


def parse_day(day: str) -> str:
    """YYYY-MM-DD, or CostError (`day-invalid`): a day becomes part of a path."""
    try:
        if date.fromisoformat(day).isoformat() == day:
            return day
    except ValueError:
        pass
    raise CostError(f"{day!r} is not a day", remedy="write YYYY-MM-DD", code="day-invalid")


def _read_table(path: Path, run_id: str | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if run_id is None:
            return pq.ParquetFile(path, page_checksum_verification=True).read()
        # `partitioning=None`: the day in the folder's name is no column of ours.
        return pq.read_table(
            path, filters=[("run_id", "=", run_id)], partitioning=None, page_checksum_verification=True
        )
    except FileNotFoundError as error:
        raise _damaged("a day's file is missing", path) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # damage shows in many ways
        raise _damaged(f"a day's file cannot be read: {str(error)[:100]}", path) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(fact: str, path: Path, code: str = "lake-damaged") -> CostError:
    remedy = "restore the day's folder from a backup, or remove it and compact the day again"
    return CostError(fact, place=str(path), remedy=remedy, code=code)
