"""What each step made, of what, and what that cost: one record per ended step and iteration.

Records of a run are written once, when it is closed, into a file of its own beside the usage:
`<spool>/lineage/<run_id>.ndjson`. They are durable before the run counts as closed. A line is whole or it
does not count, as in the spool; of several lines about one step the last counts, so a close that is
repeated after a crash changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from maestro_dagster.costs.interface import LineageFile, LineagePlace, UsageEvent
from maestro_dagster.costs.line import parse_line
from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError

FOLDER = "lineage"
WHOLE = -1  # the iteration of a step itself
RecordId = tuple[str, str, int]  # run, step, iteration


@dataclass(frozen=True, slots=True)
class LineageInput:
    """Something that a step read. Who made it is empty where that was not known: an asset of elsewhere.

    `day` is that of its maker's record, a hint where to look. `digest` is empty for a part that left
    no artifact.
    """

    digest: str
    run_id: str = ""
    step: str = ""
    iteration: int = WHOLE
    day: str = ""


@dataclass(frozen=True)
class LineageRecord:
    """A step's end, priced. Money is whole nano-USD; `known_nano` adds what has a price.

    `digest` is empty when nothing was made. `failed_nano` is what failed and cancelled work of the step
    cost, `retry_nano` what its attempts after the first cost; both are contained in `known_nano`, and in
    each other where a second attempt failed. `missing` names what had no price.
    A reused result cost nothing here: `source` is who made it, and `saved_nano` what that had cost, None
    when nobody knows any more.
    """

    run_id: str
    flow: str
    flow_digest: str
    step: str
    iteration: int
    uses: str
    status: str
    attempts: int
    day: str  # YYYY-MM-DD on which its work began, as that of its usage: the record's partition
    finished_at: str  # RFC 3339 UTC with microseconds
    tenant: str = "default"
    project: str = "default"
    env: str = "dev"
    digest: str = ""
    media_type: str = ""
    size: int = 0
    inputs: tuple[LineageInput, ...] = ()
    known_nano: int = 0
    unknown: int = 0  # events without a price
    missing: tuple[str, ...] = ()
    failed_nano: int = 0
    retry_nano: int = 0
    reused: bool = False
    source_run: str = ""
    source_day: str = ""
    saved_nano: int | None = 0

    @property
    def cost_nano(self) -> int | None:
        """None as soon as one price is unknown."""
        return None if self.unknown else self.known_nano

    @cached_property
    def record_id(self) -> RecordId:
        return self.run_id, self.step, self.iteration


@dataclass(frozen=True, slots=True)
class StepCost:
    """What the events of one step or iteration add up to, as the fields of a record."""

    known_nano: int = 0
    unknown: int = 0
    missing: tuple[str, ...] = ()
    failed_nano: int = 0
    retry_nano: int = 0


NO_COST = StepCost()


def sum_steps(events: Iterable[UsageEvent]) -> dict[tuple[str, int], StepCost]:
    """(step, iteration) -> its cost. Pass resolved events: together they are the run's cost report."""
    groups: dict[tuple[str, int], list[UsageEvent]] = {}
    for event in events:
        groups.setdefault((event.step, event.iteration), []).append(event)
    return {key: _sum(group) for key, group in groups.items()}


def _sum(events: Sequence[UsageEvent]) -> StepCost:
    priced = [event for event in events if event.cost_nano is not None]
    missing = {
        " ".join(part for part in (event.kind, event.provider, event.model) if part)
        for event in events
        if event.cost_nano is None
    }
    return StepCost(
        known_nano=sum(event.cost_nano or 0 for event in priced),
        unknown=len(events) - len(priced),
        missing=tuple(sorted(missing)),
        failed_nano=sum(event.cost_nano or 0 for event in priced if event.outcome in {"failed", "cancelled"}),
        retry_nano=sum(event.cost_nano or 0 for event in priced if event.attempt > 1),
    )


def write_lineage(place: LineagePlace, run_id: str, records: Sequence[LineageRecord]) -> LineageFile:
    """Appends the records of a run: one write, one fdatasync, all of them or none.

    Raises CostError (`disk-full`, `spool-write`).
    """
    data = b"".join(encode_record(record) for record in records)
    if not isinstance(place, Path):
        return place.write(run_id, data)
    path = _path(place, run_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _append(handle, data)
        finally:
            os.close(handle)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    return path


def _append(handle: int, data: bytes) -> None:
    size = os.fstat(handle).st_size
    if size == len(data) and os.pread(handle, size, 0) == data:  # a close that is repeated after a crash
        os.fdatasync(handle)
        return
    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
    view = memoryview(b"\n" + data if torn else data)
    try:
        while view:
            view = view[os.write(handle, view) :]
        os.fdatasync(handle)
    except OSError:
        os.ftruncate(handle, size)  # the caller is told that none was written
        raise


def encode_record(record: LineageRecord) -> bytes:
    """One line; fields at their default are left out."""
    value = {
        field.name: getattr(record, field.name)
        for field in _FIELDS
        if field.default is MISSING or getattr(record, field.name) != field.default
    }
    if record.inputs:
        value["inputs"] = [
            {name: item for name, item in asdict(each).items() if item not in ("", WHOLE)}
            for each in record.inputs
        ]
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode_record(line: bytes, place: str) -> LineageRecord | None:
    """None for an empty line and a torn one. Raises CostError (`lineage-corrupt`)."""
    try:
        value = parse_line(line)
    except ValueError:
        raise _corrupt(place) from None
    if value is None:
        return None
    if not _fits(value):
        raise _corrupt(place)
    try:
        known = {name: item for name, item in value.items() if name in _TYPES}
        known["inputs"] = tuple(LineageInput(**each) for each in value.get("inputs", ()))
        known["missing"] = tuple(value.get("missing", ()))
        return LineageRecord(**known)
    except TypeError:
        raise _corrupt(place) from None


def read_lineage(path: LineageFile) -> list[LineageRecord]:
    """The records of a run's file, each step once: what was written last. Raises CostError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # compacted meanwhile, or never written
        return []
    except OSError as error:
        raise CostError(
            f"the lineage of a run cannot be read: {error.strerror}", place=str(path), code="spool-read"
        ) from error
    found: dict[RecordId, LineageRecord] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):  # the rest is torn, or empty
        record = decode_record(line, f"{path}:{number}")
        if record is not None:
            found[record.record_id] = record
    return list(found.values())


def lineage_file(place: LineagePlace, run_id: str) -> LineageFile:
    return _path(place, run_id) if isinstance(place, Path) else place.file(run_id)


def _path(spool_folder: Path, run_id: str) -> Path:
    return spool_folder / FOLDER / f"{run_id}.ndjson"


def lineage_files(place: LineagePlace) -> tuple[tuple[str, LineageFile], ...]:
    """(run_id, file) of every run whose lineage is not in the lake yet, by name."""
    return _paths(place) if isinstance(place, Path) else place.files()


def _paths(spool_folder: Path) -> tuple[tuple[str, Path], ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(spool_folder / FOLDER))
    except FileNotFoundError:
        return ()
    return tuple(
        (name.removesuffix(".ndjson"), spool_folder / FOLDER / name)
        for name in names
        if name.endswith(".ndjson")
    )


def read_closed(
    place: LineagePlace, closed: Callable[[str], bool]
) -> Iterator[tuple[LineageFile, list[LineageRecord]]]:
    """The files of runs that have ended for good, with their records."""
    for run_id, path in lineage_files(place):
        if closed(run_id):
            yield path, read_lineage(path)


def lineage_days(place: LineagePlace) -> tuple[str, ...]:
    """Days that waiting records belong to, ascending."""
    found = {record.day for _, path in lineage_files(place) for record in read_lineage(path)}
    return tuple(sorted(found))


def _fits(value: Mapping[str, Any]) -> bool:
    """Whether every field that is there has its type: what is damaged is not added up."""
    return value.keys() >= _REQUIRED and all(
        isinstance(item, _TYPES[name]) and (isinstance(item, bool) == (name == "reused") or item is None)
        for name, item in value.items()
        if name in _TYPES
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _corrupt(place: str) -> CostError:
    return CostError(
        "a line of a run's lineage is damaged",
        place=place,
        remedy="restore the file from a backup, or remove the line: its step then has no known cost",
        code="lineage-corrupt",
    )


_FIELDS = fields(LineageRecord)
_REQUIRED = frozenset(field.name for field in _FIELDS if field.default is MISSING)
_KINDS: dict[str, Any] = {
    "str": str, "int": int, "bool": bool, "int | None": (int, type(None)),
    "tuple[str, ...]": list, "tuple[LineageInput, ...]": list,
}  # fmt: skip
_TYPES = {field.name: _KINDS[str(field.type)] for field in _FIELDS}
