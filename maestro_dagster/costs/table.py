"""A table of the lake: one Parquet file a day, and beside it a manifest that says which.

    <lake>/<table>/day=2026-01-31/manifest.json          the commit point: swapped, never edited
    <lake>/<table>/day=2026-01-31/part-<sha256>.parquet

A reader that follows the manifests never sees a day half-written; any Parquet tool may read the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from decimal import Context
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.folder import LocalFolder, RemoteFolder
from maestro_dagster.costs.lease import Lease, lock_folder
from maestro_dagster.costs.schema import COLUMNS, VERSION
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
_SHORT = 16
_PREFIX = "day="
_WIDE = Context(prec=60)
NOTHING: Mapping[str, int] = {"rows": 0, "sum_nano": 0, "unknown": 0}


@dataclass(frozen=True, slots=True)
class DayManifest:
    """`sum_nano` adds the rows that have a price, `unknown` counts the others. `sha256` is the file's.

    `source`: what the day was built from (a cube: the sha256 of the day's usage file). `retired`: the
    {"rows", "sum_nano", "unknown"} that retention has removed from this day so far.
    """

    day: str
    version: int
    file: str
    sha256: str
    size: int
    rows: int
    sum_nano: int
    unknown: int
    source: str = ""
    retired: Mapping[str, int] = field(default_factory=lambda: dict(NOTHING))


class LakeTable:
    """A table in a folder of the lake.

    `order` sorts a day's rows (by default the columns that are neither money nor counts), `complete` gives
    a file of an older version the columns that it lacks, and `layout` is what pyarrow's `write_table` is
    told beyond what all tables have.
    """

    def __init__(
        self,
        folder: LocalFolder | RemoteFolder,
        name: str,
        *,
        order: Sequence[str] = (),
        complete: Callable[[pa.Table, Sequence[str] | None], pa.Table] | None = None,
        layout: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._folder = folder
        self._order = tuple(order)
        self._complete = complete
        self._layout = dict(layout or {})
        self._held: dict[str, tuple[Lease | None, str | None]] = {}

    def days(self) -> tuple[str, ...]:
        """Days that have been published, ascending."""
        return tuple(
            name.removeprefix(_PREFIX)
            for name in self._folder.children_with(MANIFEST)
            if name.startswith(_PREFIX)
        )

    def manifest(self, day: str) -> DayManifest | None:
        """None when nothing was published for the day. Raises CostError (`lake-damaged`)."""
        folder = self.folder(day)
        try:
            value: Any = json.loads(folder.read(MANIFEST))
            known = {item.name for item in fields(DayManifest)}
            return DayManifest(**{name: item for name, item in value.items() if name in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise _damaged("the manifest of a day cannot be read", folder.place(MANIFEST)) from error

    def file(self, day: str) -> str | None:
        """Path or URL of the day's Parquet file."""
        manifest = self.manifest(day)
        return self.folder(day).place(manifest.file) if manifest else None

    def files(self, since: str | None = None, until: str | None = None) -> tuple[str, ...]:
        """The files of the days from `since` up to and including `until` (YYYY-MM-DD)."""
        days = (day for day in self.days() if in_period(day, since, until))
        return tuple(path for path in map(self.file, days) if path is not None)

    def read_day(
        self, day: str, columns: Sequence[str] | None = None, filters: Any = None
    ) -> pa.Table | None:
        """The day's rows; None when nothing was published. `filters` as pyarrow takes them.

        Raises CostError (`lake-damaged`).
        """
        while (manifest := self.manifest(day)) is not None:
            try:
                return self._read(self.folder(day), manifest.file, columns, filters)
            except CostError:
                if self.manifest(day) == manifest:  # else it has just been replaced
                    raise
        return None

    def write_day(
        self, day: str, table: pa.Table, *, source: str = "", retired: Mapping[str, int] | None = None
    ) -> DayManifest:
        """Publishes the day, whose lock is held by the caller. What was retired before stays counted.

        Raises CostError (`disk-full`, `lake-verify`, `lease-lost`, `lake-unreachable`).
        """
        folder = self.folder(day)
        if isinstance(folder, LocalFolder):
            folder.remove_drafts()
        lease, stamp = self._held.get(day) or (None, folder.stamp(MANIFEST))
        before = self.manifest(day)
        if retired is None:
            retired = before.retired if before else NOTHING
        data = self.encode(table)
        sha256 = hashlib.sha256(data).hexdigest()
        rows, (known, unknown) = table.num_rows, measure(table)
        name = f"part-{sha256[:_SHORT]}.parquet"
        manifest = DayManifest(
            day, VERSION, name, sha256, len(data), rows, known, unknown, source, dict(retired)
        )
        folder.put(name, data)
        if not self._holds(folder, manifest):
            folder.remove(name)
            raise _damaged(
                "a day's file does not read back as it was written", folder.place(name), "lake-verify"
            )
        self._swap(day, manifest, lease, stamp)
        return manifest

    def encode(self, table: pa.Table) -> bytes:
        """The bytes of a day's Parquet file, rows in order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        order = self._order or _dimensions(table)
        if order and not _is_sorted(table, order):
            table = table.sort_by([(name, "ascending") for name in order])
        layout = {"compression": "zstd", **self._layout}
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, data_page_version="2.0", write_page_checksum=True, **layout)
        return bytes(sink.getvalue().to_pybytes())

    def verify_day(self, day: str) -> DayManifest:
        """Checks bytes, rows and sum of a day. Raises CostError (`lake-damaged`, `day-missing`)."""
        manifest, folder = self.manifest(day), self.folder(day)
        if manifest is None:
            raise CostError(
                f"no {self.name} of {day} is in the lake", place=folder.place(""), code="day-missing"
            )
        try:
            intact = self._holds(folder, manifest)
        except FileNotFoundError:
            raise _damaged("a day's file is missing", folder.place(manifest.file)) from None
        if not intact:
            raise _damaged("a day's file is not the one that was published", folder.place(manifest.file))
        return manifest

    def remove_day(self, day: str) -> None:
        """Takes a published day out of the table; its lock is held by the caller."""
        folder = self.folder(day)
        folder.remove(MANIFEST)
        for name in folder.names():
            if _is_part(name):
                folder.remove(name)

    @contextlib.contextmanager
    def lock_day(self, day: str) -> Iterator[None]:
        """One writer of a day at a time; others wait. Raises CostError (`day-locked`)."""
        folder = self.folder(day)
        if isinstance(folder, LocalFolder):
            with lock_folder(folder.path):
                yield
            return
        lease = Lease(folder)
        lease.take()
        try:
            self._held[day] = lease, folder.stamp(MANIFEST)
            yield
        finally:
            self._held.pop(day, None)
            lease.release()

    def folder(self, day: str) -> LocalFolder | RemoteFolder:
        return self._folder.child(f"{_PREFIX}{parse_day(day)}")

    def _holds(self, folder: LocalFolder | RemoteFolder, manifest: DayManifest) -> bool:
        """Whether the file has the manifest's bytes, and these its rows and its sum. What the bytes were
        made from is sound, so money is all that is decoded again.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = folder.read(manifest.file)
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            return False
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            money = [name for name in ("cost_usd", "unknown") if name in file.schema_arrow.names]
            found = measure(file.read(money))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(
                f"a day's file cannot be read: {str(error)[:100]}", folder.place(manifest.file)
            ) from error
        return (file.metadata.num_rows, *found) == (manifest.rows, manifest.sum_nano, manifest.unknown)

    def _swap(self, day: str, manifest: DayManifest, lease: Lease | None, stamp: str | None) -> None:
        folder = self.folder(day)
        data = json.dumps(asdict(manifest), indent=1, sort_keys=True).encode() + b"\n"
        if lease is not None:
            lease.check()
        if not folder.swap(MANIFEST, data, stamp):
            raise CostError(
                "another writer has published this day meanwhile, nothing was overwritten",
                place=folder.place(MANIFEST),
                remedy="compact the day again",
                code="lease-lost",
            )
        if lease is not None:
            self._held[day] = lease, folder.stamp(MANIFEST)
        for name in folder.names():
            if _is_part(name) and name != manifest.file:
                folder.remove(name)

    def _read(
        self, folder: LocalFolder | RemoteFolder, name: str, columns: Sequence[str] | None, filters: Any
    ) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with contextlib.ExitStack() as stack:
                source = folder.open(name)
                if hasattr(source, "close"):
                    stack.callback(source.close)
                held = pq.read_schema(source).names
                if self._complete is not None and any(column not in held for column in columns or COLUMNS):
                    older = self._complete(_read_parquet(source, None, None), None)
                    older = older if filters is None else older.filter(pq.filters_to_expression(filters))
                    return older.select(list(columns or COLUMNS))
                return _read_parquet(source, list(columns) if columns is not None else None, filters)
        except FileNotFoundError as error:
            raise _damaged("a day's file is missing", folder.place(name)) from error
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # damage shows in many ways
            raise _damaged(f"a day's file cannot be read: {str(error)[:100]}", folder.place(name)) from error


def measure(table: pa.Table) -> tuple[int, int]:
    """(nano-USD of `cost_usd`, rows or events without a price); zeros for a table without money."""
    import pyarrow.compute as pc

    if "cost_usd" not in table.column_names:
        return 0, 0
    cost = table.column("cost_usd")
    total = pc.sum(cost).as_py()
    known = int(_WIDE.scaleb(total, 9)) if total is not None else 0
    if "unknown" in table.column_names:
        return known, int(pc.sum(table.column("unknown")).as_py() or 0)
    return known, cost.null_count


def parse_day(day: str) -> str:
    """YYYY-MM-DD, or CostError (`day-invalid`): a day becomes part of a path."""
    try:
        if date.fromisoformat(day).isoformat() == day:
            return day
    except ValueError:
        pass
    raise CostError(f"{day!r} is not a day", remedy="write YYYY-MM-DD", code="day-invalid")


def in_period(day: str, since: str | None, until: str | None) -> bool:
    return (since is None or day >= since) and (until is None or day <= until)


def _read_parquet(source: Any, columns: list[str] | None, filters: Any) -> pa.Table:
    import pyarrow.parquet as pq

    if hasattr(source, "seek"):
        source.seek(0)
    if filters is None:
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns)
    # `partitioning=None`: the day in the folder's name is no column of ours.
    return pq.read_table(
        source, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True
    )


def _dimensions(table: pa.Table) -> tuple[str, ...]:
    import pyarrow as pa

    # What a person groups by: texts, switches, times. Money and counts are what is added up.
    chosen = (pa.types.is_string, pa.types.is_boolean, pa.types.is_temporal)
    return tuple(item.name for item in table.schema if any(test(item.type) for test in chosen))


def _is_sorted(table: pa.Table, order: Sequence[str]) -> bool:
    import polars as pl

    frame = pl.from_arrow(table.select(list(order)))
    return isinstance(frame, pl.DataFrame) and frame.select(pl.struct(order)).to_series().is_sorted()


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def _damaged(fact: str, place: str, code: str = "lake-damaged") -> CostError:
    remedy = "restore the day's folder from a backup, or remove it and compact the day again"
    return CostError(fact, place=place, remedy=remedy, code=code)
