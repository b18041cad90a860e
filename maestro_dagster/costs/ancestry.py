"""Finding lineage: by digest or by run, fresh in the spool and in the lake, many at a time.

Nothing is read that the question does not touch: a day's index tells the rows of a digest, the statistics
of `run_id` the few rows of a run. Both are kept for the length of one question.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.artifact import ARTIFACT_INDEX, ARTIFACTS, DESCRIPTIVE, key_of, list_records
from maestro_dagster.costs.lineage import LineageRecord, RecordId, lineage_files, read_lineage
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from maestro_dagster.costs.interface import LineagePlace
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.table import LakeTable

_DIGEST = re.compile(rb'"digest":"(sha256:[0-9a-f]{64})"')
_KEPT = 16  # row groups of a day: its runs are asked for by digest first, then for the rest of them
Range = tuple[int, int]  # keys from, up to and including


class Ancestry:
    """The lineage in spool and lake together, for one question: what is published later is not seen."""

    def __init__(self, spool: LineagePlace, lake: Lake) -> None:
        self._files = dict(lineage_files(spool))
        self._lake = lake
        self._spooled: dict[str, dict[RecordId, LineageRecord]] = {}
        self._mentioned: dict[str, set[str]] | None = None  # digest -> runs whose fresh lineage names it
        self._days: dict[str, _Day] = {}
        self._published: tuple[str, ...] | None = None

    def days(self) -> tuple[str, ...]:
        """Days of the lake, newest first."""
        if self._published is None:
            self._published = tuple(reversed(self._lake.table(ARTIFACTS).days()))
        return self._published

    def find_runs(self, wanted: Mapping[str, set[str]]) -> dict[RecordId, LineageRecord]:
        """Records of runs, by the days on which to look (none: all days)."""
        found: dict[RecordId, LineageRecord] = {}
        by_day: dict[str, set[str]] = defaultdict(set)
        for run_id, days in wanted.items():
            fresh = self._fresh(run_id)
            found |= fresh
            for day in () if fresh else days or self.days():
                by_day[day].add(run_id)
        published = sorted(by_day.keys() & set(self.days()))
        for records in self._at_once(published, lambda day: self._day(day).read_runs(by_day[day])):
            for record in records:
                found.setdefault(record.record_id, record)
        return found

    def find_digests(self, wanted: Mapping[str, str]) -> dict[str, LineageRecord]:
        """Of each digest the newest making, by its day, that ended before the time given (RFC 3339)."""
        found: dict[str, LineageRecord] = {}

        def note(record: LineageRecord) -> None:
            before = found.get(record.digest)
            if record.finished_at < wanted[record.digest] and (before is None or _age(record) > _age(before)):
                found[record.digest] = record

        for digest in wanted:
            for record in self._fresh_makings(digest):
                note(record)
        for day in self.days():
            left = [digest for digest in sorted(wanted) if digest not in found or found[digest].day <= day]
            if not left:
                break
            keys = [(key_of(digest),) * 2 for digest in left if day <= wanted[digest][:10]]
            for record in self._day(day).read_keys(keys) if keys else ():
                if record.digest in wanted:
                    note(record)
        return found

    def find_prefix(self, prefix: str) -> list[LineageRecord]:
        """Every record whose digest begins so, newest first: makings, and those that took one over."""
        name = prefix.removeprefix("sha256:")
        whole = f"sha256:{name}"
        low, high = key_of(name[:16]), int(name[:16].ljust(16, "f"), 16)
        found: dict[RecordId, LineageRecord] = {}
        for digest in sorted(self._digests()):
            if digest.startswith(whole):
                found |= {each.record_id: each for each in self._fresh_makings(digest)}
        for records in self._at_once(self.days(), lambda day: self._day(day).read_keys([(low, high)])):
            for record in records:
                if record.digest.startswith(whole):
                    found.setdefault(record.record_id, record)
        return sorted(found.values(), key=_age, reverse=True)

    def describe(self, record: LineageRecord) -> LineageRecord:
        """The record with what only describes it (`DESCRIPTIVE`): others are found without."""
        if record.record_id in self._fresh(record.run_id) or record.day not in self.days():
            return record
        found = _Day(self._lake, record.day, whole=True).read_runs({record.run_id})
        return next((each for each in found if each.record_id == record.record_id), record)

    def _fresh(self, run_id: str) -> dict[RecordId, LineageRecord]:
        if run_id not in self._spooled:
            path = self._files.get(run_id)
            records = read_lineage(path) if path is not None else []
            self._spooled[run_id] = {record.record_id: record for record in records}
        return self._spooled[run_id]

    def _fresh_makings(self, digest: str) -> list[LineageRecord]:
        runs = self._digests().get(digest, ())
        return [
            each for run_id in sorted(runs) for each in self._fresh(run_id).values() if each.digest == digest
        ]

    def _digests(self) -> dict[str, set[str]]:
        """Without parsing the lines: most of them have nothing to do with the question."""
        if self._mentioned is None:
            self._mentioned = defaultdict(set)
            for run_id, path in self._files.items():
                with contextlib.suppress(FileNotFoundError):  # compacted meanwhile
                    for digest in _DIGEST.findall(path.read_bytes()):
                        self._mentioned[digest.decode()].add(run_id)
        return self._mentioned

    def _at_once(
        self, days: Sequence[str], read: Callable[[str], list[LineageRecord]]
    ) -> Iterator[list[LineageRecord]]:
        """Days do not depend on each other, and reading them leaves Python to others."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(read, days)

    def _day(self, day: str) -> _Day:
        if day not in self._days:
            self._days[day] = _Day(self._lake, day)
        return self._days[day]


@dataclass(slots=True)
class _Opened:
    """One file of the lake, held open: a compaction that replaces it meanwhile does not disturb."""

    file: pq.ParquetFile
    sha256: str
    source: str
    place: str
    columns: list[str] | None = None  # None: all
    recent: dict[int, pa.Table] = field(default_factory=dict)  # row groups, the last ones read

    def read(self, number: int) -> pa.Table:
        """A row group: too little for threads, starting them takes longer than reading."""
        if number not in self.recent:
            with _damage(self.place):
                self.recent[number] = self.file.read_row_group(number, self.columns, use_threads=False)
            if len(self.recent) > _KEPT:
                del self.recent[next(iter(self.recent))]
        return self.recent[number]

    def read_column(self, name: str) -> pa.ChunkedArray:
        with _damage(self.place):
            return self.file.read([name]).column(name)

    def read_part(self, number: int, name: str) -> np.ndarray:
        """A column of whole numbers; `to_numpy` would import pandas, which takes longer than the rest."""
        import numpy as np

        with _damage(self.place):
            column = self.file.read_row_group(number, [name], use_threads=False).column(name)
            return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])

    def starts(self) -> list[int]:
        """First row of each row group, and the number of all rows."""
        metadata = self.file.metadata
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        return [0, *accumulate(sizes)]

    def bounds(self, column: str) -> tuple[list[Any], list[Any]]:
        """Least and greatest value of a column in each row group."""
        metadata = self.file.metadata
        with _damage(self.place):
            place = self.file.schema_arrow.get_field_index(column)
            found = [
                metadata.row_group(number).column(place).statistics
                for number in range(metadata.num_row_groups)
            ]
            return [each.min for each in found], [each.max for each in found]


class _Day:
    """A published day, opened when it is first asked."""

    def __init__(self, lake: Lake, day: str, *, whole: bool = False) -> None:
        self._lake = lake
        self._day = day
        self._whole = whole
        self._rows: _Opened | None = None
        self._index: _Index | None = None
        self._bounds: tuple[list[str], list[str]] | None = None

    def read_runs(self, runs: set[str]) -> list[LineageRecord]:
        rows = self._open_rows()
        if self._bounds is None:
            self._bounds = rows.bounds("run_id")
        least, most = self._bounds
        groups: dict[int, list[str]] = defaultdict(list)
        for run_id in sorted(runs):
            for number in range(bisect_left(most, run_id), bisect_right(least, run_id)):
                groups[number].append(run_id)
        found: list[LineageRecord] = []
        for number in sorted(groups):
            table = rows.read(number)
            names = _Texts(table.column("run_id"))
            for run_id in groups[number]:  # the rows of a run lie together
                first, last = bisect_left(names, run_id), bisect_right(names, run_id)
                found += list_records(table.slice(first, last - first), self._day)
        return found

    def read_keys(self, ranges: list[Range]) -> list[LineageRecord]:
        if self._index is None:
            self._index = _Index(self._lake, self._day)
            if not self._index.fits:
                self._index.use(self._open_rows())
        found = self._index.find(ranges)
        if not found:
            return []
        rows = self._open_rows()
        if not self._index.is_of(rows):  # published between the two looks
            self._index.use(rows)
            found = self._index.find(ranges)
        starts = rows.starts()
        made: list[LineageRecord] = []
        for row in found:
            place = bisect_right(starts, row) - 1
            made += list_records(rows.read(place).slice(row - starts[place], 1), self._day)
        return made

    def _open_rows(self) -> _Opened:
        if self._rows is None:
            self._rows = _open(self._lake.table(ARTIFACTS), self._day)
            if self._rows is None:
                raise CostError(
                    "a day of the lake was removed meanwhile", place=self._day, remedy="ask again"
                )
            if not self._whole:
                held = self._rows.file.schema_arrow.names
                self._rows.columns = [name for name in held if name not in DESCRIPTIVE]
        return self._rows


class _Index:
    """Where the digests of a day are. Without an index that fits, the digests themselves are read.

    Whether it fits is seen from the manifests: most days have nothing of what is asked for, and their
    rows need not be opened.
    """

    def __init__(self, lake: Lake, day: str) -> None:
        rows, index = lake.table(ARTIFACTS), lake.table(ARTIFACT_INDEX)
        published, indexed = rows.manifest(day), index.manifest(day)
        self._of = ""
        self._opened: _Opened | None = None
        self._parts: dict[tuple[int, str], np.ndarray] = {}
        self._bounds: tuple[list[int], list[int]] = ([], [])
        if published is not None and indexed is not None and indexed.source == published.sha256:
            self._opened = _open(index, day)
        if self._opened is not None:
            self._of = self._opened.source
            self._bounds = self._opened.bounds("key")

    @property
    def fits(self) -> bool:
        return self._opened is not None

    def is_of(self, rows: _Opened) -> bool:
        return self._of == rows.sha256

    def use(self, rows: _Opened) -> None:
        """The digests of the rows, in place of an index."""
        keys, numbers = _read_digests(rows)
        self._of, self._parts = rows.sha256, {(0, "key"): keys, (0, "row"): numbers}
        self._bounds = ([int(keys[0])], [int(keys[-1])]) if len(keys) else ([], [])

    def find(self, ranges: Iterable[Range]) -> list[int]:
        """Rows of the day whose key lies in one of the ranges, ascending."""
        import numpy as np

        least, most = self._bounds
        found: set[int] = set()
        for low, high in ranges:
            for number in range(bisect_left(most, low), bisect_right(least, high)):
                keys = self._part(number, "key")
                first = int(np.searchsorted(keys, np.uint64(low), "left"))
                last = int(np.searchsorted(keys, np.uint64(high), "right"))
                if first < last:
                    found.update(self._part(number, "row")[first:last].tolist())
        return sorted(found)

    def _part(self, number: int, column: str) -> np.ndarray:
        """One column of a row group: of most of them nobody asks for the rows."""
        if (number, column) not in self._parts:
            assert self._opened is not None  # noqa: S101 - else there is only the part 0
            self._parts[number, column] = self._opened.read_part(number, column)
        return self._parts[number, column]


class _Texts(Sequence[str]):
    """A column to be searched: only what is looked at becomes Python."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, place: Any) -> Any:
        return self._column[place].as_py()


def _read_digests(rows: _Opened) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    digests = rows.read_column("digest").to_pylist()
    pairs = sorted((key_of(digest), row) for row, digest in enumerate(digests) if digest)
    keys = np.array([key for key, _ in pairs], np.uint64)
    return keys, np.array([row for _, row in pairs], np.uint32)


def _open(table: LakeTable, day: str) -> _Opened | None:
    import pyarrow.parquet as pq

    while (manifest := table.manifest(day)) is not None:
        folder = table.folder(day)
        place = folder.place(manifest.file)
        try:
            with _damage(place):
                file = pq.ParquetFile(folder.open(manifest.file), page_checksum_verification=True)
        except CostError:
            if table.manifest(day) == manifest:  # else it has just been replaced
                raise
            continue
        return _Opened(file, manifest.sha256, manifest.source, place)
    return None


@contextlib.contextmanager
def _damage(place: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise CostError(
            f"a day's file cannot be read: {str(error)[:100]}",
            place=place,
            remedy="restore the day's folder from a backup, or remove it and compact the day again",
            code="lake-damaged",
        ) from error


def _age(record: LineageRecord) -> tuple[str, bool, str, RecordId]:
    """The newest day, there a making before a taking over, then the newest, then by name."""
    return record.day, not record.reused, record.finished_at, record.record_id
