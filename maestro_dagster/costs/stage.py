"""A day of usage between spool and lake: staged, checked, then published or put into quarantine.

    with lake.usage.lock_day(day):
        candidate = stage_day(spool, lake, day, closed)      # nothing is visible yet
        ... checks of the candidate ...
        publish_candidate(spool, lake, candidate) or quarantine_candidate(lake, candidate, outcomes)

Settled events are taken from every run. An intent that was never settled is taken, at its reserve, only
when its run is closed: until then its settlement may still come.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from maestro_dagster.costs.chunk import SIZE
from maestro_dagster.costs.interface import Chunk, UsageSpool
from maestro_dagster.costs.schema import usage_schema
from maestro_dagster.costs.table import DayManifest, measure
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake

Closed = Callable[[str], bool]  # whether a run has ended for good
QUARANTINE = "quarantine.json"
_KEPT = "quarantine-"  # the refused file: no reader by pattern takes it for a part of the day


class Outcome(Protocol):
    """What came of a check of a candidate (`costs.check`)."""

    @property
    def name(self) -> str: ...

    @property
    def message(self) -> str: ...

    @property
    def blocks(self) -> bool: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A spool file as far as it was read. `whole`: it has nothing of other days; perhaps nothing at all, when
    its writer died early. `closed`: of an ended run.
    """

    run_id: str
    name: str
    end: int
    whole: bool
    closed: bool
    conflict: bool  # says of an event that the lake has something else than the lake's


@dataclass(frozen=True, slots=True)
class Candidate:
    """A day as it would be published; all tables in the lake's schema.

    `published` is what readers see now (no rows: nothing), `frame` what the spool has of the day, each event
    once, without the `waiting` open calls of live runs. Sums are nano-USD.
    """

    day: str
    table: pa.Table
    published: pa.Table
    frame: pl.DataFrame
    base: DayManifest | None
    changed: bool
    waiting: int
    spool_sum_nano: int
    sources: tuple[Source, ...]

    @property
    def spooled(self) -> pa.Table:
        """The rows of `frame` as a table."""
        from maestro_dagster.costs.frame import table_of

        return table_of(self.frame) if self.published.num_rows else self.table


def stage_day(spool: UsageSpool, lake: Lake, day: str, closed: Closed) -> Candidate:
    """Merges what the lake and the spool have of the day; the day's lock is held by the caller.

    Raises CostError (`spool-corrupt`, `event-invalid`, `lake-damaged`, `day-invalid`).
    """
    import polars as pl

    from maestro_dagster.costs.frame import frame_of, merge_frames, sum_frame, table_of

    base, published = lake.usage.manifest(day), lake.usage.read_day(day)
    published = published if published is not None else usage_schema().empty_table()
    ended = functools.cache(closed)
    frame, chunks = collect_day(spool, day)
    runs = [chunk.run_id for chunk in chunks]
    opened = (
        index for (index,) in frame.filter(pl.col("phase") == "intent").select("source").unique().rows()
    )
    live = [index for index in opened if not ended(runs[index])]
    waits = (pl.col("phase") == "intent") & pl.col("source").is_in(live)
    waiting = frame.filter(waits).height
    frame = frame.filter(~waits)
    old = frame_of(published)
    judged = judge_rows(frame, old)
    fresh, replaced = judged.filter("lacking"), judged.filter("replaced")
    table = published
    if fresh.height:
        news = frame
        if fresh.height < frame.height:
            news = frame.join(fresh.select("event_id"), on="event_id", how="semi", maintain_order="left")
        table = table_of(merge_frames([old, news.drop("source")]))
    settled, _ = sum_frame(old.join(replaced, on="event_id", how="semi"))
    spooled, _ = sum_frame(frame.join(replaced, on="event_id", how="anti"))
    conflicts = set(judged.filter("conflict")["source"])
    return Candidate(
        day=day,
        table=table,
        published=published,
        frame=frame,
        base=base,
        changed=fresh.height > 0,
        waiting=waiting,
        spool_sum_nano=settled + spooled,
        sources=tuple(
            Source(one.run_id, one.source, one.end, not one.others, ended(one.run_id), index in conflicts)
            for index, one in enumerate(chunks)
            if one.lines or not one.others
        ),
    )


def collect_day(
    spool: UsageSpool, day: str, sources: Collection[str] | None = None
) -> tuple[pl.DataFrame, list[Chunk]]:
    """(the day's events in the spool, each once; the sources that they are from).

    The column `source` counts into the list, which has one chunk a source, emptied of its data; one that
    has nothing of the day has 0 lines.
    """
    import polars as pl

    from maestro_dagster.costs.frame import frame_events, merge_frames

    frames = [frame_events([]).with_columns(pl.lit(0, pl.UInt32).alias("source"))]
    found: list[Chunk] = []
    batch: list[tuple[int, Chunk]] = []
    for chunk in spool.chunks(day, sources):
        if not found or found[-1].source != chunk.source:
            found.append(Chunk(chunk.run_id, chunk.source, b"", 0, frozenset(), 0))
        last = found[-1]  # also of a chunk without a line of the day: what else the source has matters
        lines, others = last.lines + chunk.lines, last.others | chunk.others
        found[-1] = Chunk(last.run_id, last.source, b"", lines, others, chunk.end)
        if chunk.lines:
            batch.append((len(found) - 1, chunk))
        if sum(len(each.data) for _, each in batch) >= SIZE:
            frames.append(_read_batch(spool, batch))
            batch = []
    if batch:
        frames.append(_read_batch(spool, batch))
    return merge_frames(frames), found


def judge_rows(frame: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """What the lake says of each event of the spool.

    Columns: event_id, source; `lacking` (the lake has it not, or only as an intent), `replaced` (an intent
    whose settlement is in the lake), `conflict` (the lake has it at another cost).
    """
    import polars as pl

    theirs = old.select("event_id", pl.col("phase").alias("known"), pl.col("cost_nano").alias("known_nano"))
    both = frame.select("event_id", "source", "phase", "cost_nano").join(
        theirs, on="event_id", how="left", maintain_order="left"
    )
    lacking = pl.col("known").is_null() | ((pl.col("known") == "intent") & (pl.col("phase") == "settled"))
    replaced = (pl.col("known") == "settled").fill_null(value=False) & (pl.col("phase") == "intent")
    differs = pl.col("cost_nano").ne_missing(pl.col("known_nano"))
    return both.select(
        "event_id", "source", lacking=lacking, replaced=replaced, conflict=~lacking & ~replaced & differs
    )


def publish_candidate(lake: Lake, candidate: Candidate) -> DayManifest | None:
    """Swaps the day's manifest; the day's lock is still held. Prune the spool after that.

    None: of a day without usage nothing is published, else it would count as one that has some.

    Raises CostError (`disk-full`, `lake-verify`, `lease-lost`, `lake-damaged`).
    """
    usage = lake.usage
    manifest = None
    if candidate.changed:
        manifest = usage.write_day(candidate.day, candidate.table)
    elif candidate.base is not None:
        manifest = usage.verify_day(candidate.day)
    folder = usage.folder(candidate.day)
    for name in folder.names():
        if name.startswith(_KEPT) or name == QUARANTINE:
            folder.remove(name)
    return manifest


def quarantine_candidate(lake: Lake, candidate: Candidate, outcomes: Sequence[Outcome]) -> None:
    """Keeps the candidate beside the day with what is wrong with it. What was published stays, and so does
    the spool: the day is staged again next time.
    """
    folder = lake.usage.folder(candidate.day)
    data = lake.usage.encode(candidate.table)
    sha256 = hashlib.sha256(data).hexdigest()
    known, unknown = measure(candidate.table)
    value = {
        "day": candidate.day,
        "file": f"{_KEPT}{sha256[:16]}.refused",
        "sha256": sha256,
        "rows": candidate.table.num_rows,
        "sum_usd": format_nano(known),
        "events_without_price": unknown,
        "outcomes": [outcome.to_json() for outcome in outcomes],
    }
    folder.put(str(value["file"]), data)
    folder.put(QUARANTINE, json.dumps(value, indent=1).encode() + b"\n")
    for name in folder.names():
        if name.startswith(_KEPT) and name != value["file"]:
            folder.remove(name)


def read_quarantine(lake: Lake, day: str) -> dict[str, Any] | None:
    """Why the day's newest candidate was refused; None when nothing is in quarantine."""
    try:
        value: dict[str, Any] = json.loads(lake.usage.folder(day).read(QUARANTINE))
    except FileNotFoundError:
        return None
    return value


def _read_batch(spool: UsageSpool, batch: Sequence[tuple[int, Chunk]]) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    from maestro_dagster.costs.frame import frame_lines

    try:
        frame = frame_lines(b"".join(chunk.data for _, chunk in batch))
        lines = [chunk.lines for _, chunk in batch]
        if frame.height == sum(lines):
            places = np.repeat(np.array([index for index, _ in batch], dtype=np.uint32), lines)
            return frame.with_columns(pl.Series("source", places))
        wrong = CostError("lines of the usage spool are missing", code="spool-corrupt")
    except CostError as error:
        wrong = error
    for _, chunk in batch:  # one by one, for the line that is damaged
        for _ in spool.read_source(chunk.source):
            pass
    raise CostError(wrong.fact, place=batch[0][1].source, remedy=wrong.remedy, code=wrong.error_code)
