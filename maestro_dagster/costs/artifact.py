"""Lineage in the lake: `cube_artifact`, a row per ended step and iteration, and an index of its digests.

Rows lie by run, so that what a run did is read in one piece and repeated digests take no room. The index
has the first 8 bytes of each digest, in order, and the row: statistics tell which of its few pages to read.
It names the file that it is of; one that is out of date is not used. `cost_usd` is what has a price, null
when nothing has, and `unknown` counts the events without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.lineage import LineageInput, LineageRecord, RecordId, read_closed
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.interface import LineageFile, LineagePlace
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.table import DayManifest

ARTIFACTS, ARTIFACT_INDEX = "cube_artifact", "artifact_index"
ROW_GROUP = 1024  # rows that are read for one run: small, for a question touches many runs
ARTIFACT_ORDER = ("run_id", "step", "iteration")
_REPEATED = (
    "tenant", "project", "env", "flow", "flow_digest", "step", "iteration", "uses", "status", "attempts",
    "media_type", "unknown", "reused", "source_run", "source_day", "missing.list.element",
    "inputs.list.element.step", "inputs.list.element.iteration", "inputs.list.element.day",
)  # fmt: skip
_REPEATED_LONG = ("run_id", "inputs.list.element.run_id", "inputs.list.element.digest")
_VARIED = ("digest", "size", "cost_usd", "failed_usd", "retry_usd", "saved_usd", "finished_at")
# What a column costs to read is mostly by the page, not by the row: a dictionary of few values is small
# as it is, what never repeats has none, and money is a whole number.
ARTIFACT_LAYOUT: dict[str, Any] = {
    "row_group_size": ROW_GROUP,
    "write_statistics": ["run_id"],
    "use_dictionary": [*_REPEATED, *_REPEATED_LONG],
    "compression": dict.fromkeys(_REPEATED, "none") | dict.fromkeys((*_REPEATED_LONG, *_VARIED), "zstd"),
    "store_decimal_as_integer": True,
}
INDEX_ORDER = ("key",)
INDEX_LAYOUT = {
    "row_group_size": 16384,
    "use_dictionary": False,
    "compression": "none",
    "write_statistics": ["key"],
}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, as the text says that is made of it
_TEXT_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_HEX = 16  # hexadecimal digits of a key
_MONEY = {"failed_usd": "failed_nano", "retry_usd": "retry_nano"}
DESCRIPTIVE = ("tenant", "project", "env", "flow_digest", "uses", "media_type", "size")  # of no use to a sum
_PLAIN = (
    "run_id", "tenant", "project", "env", "flow", "flow_digest", "step", "iteration", "uses", "status",
    "attempts", "digest", "media_type", "size", "unknown", "reused", "source_run", "source_day",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LineageReport:
    """What a compaction of a day's lineage did. Sums are nano-USD of what has a price."""

    day: str
    rows: int
    added: int
    sum_nano: int
    unknown: int
    file: str
    sha256: str
    removed: tuple[str, ...]


def artifact_schema() -> pa.Schema:
    import pyarrow as pa

    text, whole = pa.string(), pa.int32()
    money = pa.decimal128(18, 9)
    made_of = pa.struct(
        [("digest", text), ("run_id", text), ("step", text), ("iteration", whole), ("day", text)]
    )
    types = dict.fromkeys(_PLAIN, text) | {
        "iteration": whole,
        "attempts": whole,
        "size": pa.int64(),
        "unknown": pa.int64(),
        "reused": pa.bool_(),
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in types.items()]
    return pa.schema(
        [
            *fields,
            pa.field("cost_usd", money),
            pa.field("failed_usd", money, nullable=False),
            pa.field("retry_usd", money, nullable=False),
            pa.field("saved_usd", money),
            pa.field("missing", pa.list_(text)),
            pa.field("inputs", pa.list_(made_of)),
            pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ],
        metadata={"maestro.lineage.version": "1"},
    )


def table_records(records: Sequence[LineageRecord]) -> pa.Table:
    """The records as rows, in the table's order. Raises CostError (`lineage-invalid`)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = sorted(records, key=lambda record: record.record_id)
    schema = artifact_schema()

    def usd(values: list[int | None]) -> pa.Array:
        exact = pa.array(values, pa.int64()).cast(pa.decimal128(19, 0))
        return pc.multiply(exact, pa.scalar(Decimal("1E-9"), pa.decimal128(10, 9))).cast(pa.decimal128(18, 9))

    try:
        columns: dict[str, Any] = {
            name: pa.array([getattr(row, name) for row in rows], schema.field(name).type) for name in _PLAIN
        }
        columns |= {usd_: usd([getattr(row, nano) for row in rows]) for usd_, nano in _MONEY.items()}
        columns["cost_usd"] = usd(
            [None if row.unknown and not row.known_nano else row.known_nano for row in rows]
        )
        columns["saved_usd"] = usd([row.saved_nano for row in rows])
        columns["missing"] = pa.array([list(row.missing) for row in rows], schema.field("missing").type)
        columns["inputs"] = pa.array(
            [[_plain_input(each) for each in row.inputs] for row in rows], schema.field("inputs").type
        )
        texts = pa.array([row.finished_at[:19] for row in rows], pa.string())
        times = pc.strptime(texts, "%Y-%m-%dT%H:%M:%S", "us")
        micro = pa.array([int(row.finished_at[20:26]) for row in rows], pa.int64())
        columns["finished_at"] = pc.add(times.cast(pa.int64()), micro).cast(pa.timestamp("us", tz="UTC"))
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        raise CostError(
            f"lineage does not fit the lake: {str(error).splitlines()[0][:200]}",
            remedy="look for the record in the spool's folder `lineage` and correct its writer",
            code="lineage-invalid",
        ) from None


def list_records(table: pa.Table, day: str) -> list[LineageRecord]:
    """The rows of a day as records; which day it is says their folder. `DESCRIPTIVE` columns may lack."""
    import pyarrow as pa

    found = []
    # As whole numbers: times would import pandas, which takes longer than a whole question.
    chunks = [chunk.view(pa.int64()) for chunk in table.column("finished_at").chunks]
    times = [_EPOCH + timedelta(microseconds=micro) for chunk in chunks for micro in chunk.to_pylist()]
    rows = table.drop_columns(["finished_at"]).to_pylist()
    for read, finished_at in zip(rows, times, strict=True):
        row = {"flow_digest": "", "uses": "", **read, "day": day}
        cost = row.pop("cost_usd")
        row["known_nano"] = _nano(cost) or 0
        row["saved_nano"] = _nano(row.pop("saved_usd"))
        for usd, nano in _MONEY.items():
            row[nano] = _nano(row.pop(usd)) or 0
        row["missing"] = tuple(row.get("missing") or ())
        row["inputs"] = tuple(LineageInput(**each) for each in row["inputs"] or ())
        row["finished_at"] = finished_at.strftime(_TEXT_TIME)
        found.append(LineageRecord(**row))
    return found


def key_of(digest: str) -> int:
    """The first 8 bytes of a digest as a whole number: it sorts as the digest does."""
    return int(digest.removeprefix("sha256:")[:_HEX].ljust(_HEX, "0"), 16)


def compact_lineage(
    place: LineagePlace, lake: Lake, day: str, closed: Callable[[str], bool]
) -> LineageReport:
    """Publishes the lineage of a day with what runs that have ended left, then removes files wholly there.

    Running it again changes nothing, and a day without lineage is not published. Raises CostError
    (`lineage-corrupt`, `disk-full`, ...) and then publishes and removes nothing.
    """
    files = list(read_closed(place, closed))
    fresh = [record for _, records in files for record in records if record.day == day]
    artifacts = lake.table(ARTIFACTS)
    if not fresh and artifacts.manifest(day) is None:
        return LineageReport(day, 0, 0, 0, 0, "", "", ())
    with artifacts.lock_day(day):
        old = artifacts.read_day(day)
        merged = _merge(old, fresh)
        manifest = artifacts.manifest(day)
        if manifest is None or old is None or not merged.equals(old):
            manifest = artifacts.write_day(day, merged)
        write_index(lake, day, manifest, merged)
    artifacts.verify_day(day)
    return LineageReport(
        day=day,
        rows=manifest.rows,
        added=manifest.rows - (old.num_rows if old is not None else 0),
        sum_nano=manifest.sum_nano,
        unknown=manifest.unknown,
        file=manifest.file,
        sha256=manifest.sha256,
        removed=_prune(lake, files),
    )


def _merge(old: pa.Table | None, fresh: Sequence[LineageRecord]) -> pa.Table:
    import pyarrow as pa

    new = table_records(fresh)
    if old is None or not old.num_rows:
        return new
    known = {record.record_id for record in fresh}
    keep = pa.array([row not in known for row in _ids(old)], pa.bool_())
    both = pa.concat_tables([old.filter(keep).cast(new.schema), new])
    return both.sort_by([(name, "ascending") for name in ARTIFACT_ORDER]).combine_chunks()


def _ids(table: pa.Table) -> Iterable[RecordId]:
    return zip(*(table.column(name).to_pylist() for name in ARTIFACT_ORDER), strict=True)


def write_index(lake: Lake, day: str, manifest: DayManifest, rows: pa.Table) -> None:
    """Publishes where the digests of a day's rows are, unless that is published already."""
    import pyarrow as pa

    index = lake.table(ARTIFACT_INDEX)
    with index.lock_day(day):
        found = index.manifest(day)
        if found is not None and found.source == manifest.sha256:
            return
        pairs = [
            (key_of(digest), row) for row, digest in enumerate(rows.column("digest").to_pylist()) if digest
        ]
        pairs.sort()
        table = pa.table(
            {
                "key": pa.array([key for key, _ in pairs], pa.uint64()),
                "row": pa.array([row for _, row in pairs], pa.uint32()),
            }
        )
        index.write_day(day, table, source=manifest.sha256)


def _prune(lake: Lake, files: Sequence[tuple[LineageFile, Sequence[LineageRecord]]]) -> tuple[str, ...]:
    """Removes the files whose every record is in the lake. Gives their names."""
    known: dict[str, set[RecordId]] = {}
    removed = []
    for path, records in files:
        for day in {record.day for record in records} - known.keys():
            table = lake.table(ARTIFACTS).read_day(day, ARTIFACT_ORDER)
            known[day] = set() if table is None else set(_ids(table))
        if all(record.record_id in known[record.day] for record in records):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return tuple(removed)


def _plain_input(each: LineageInput) -> dict[str, Any]:
    return {
        "digest": each.digest,
        "run_id": each.run_id,
        "step": each.step,
        "iteration": each.iteration,
        "day": each.day,
    }


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd.scaleb(9))
