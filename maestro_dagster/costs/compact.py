"""From the spool to the lake: one day at a time, each event once, nothing removed before it is safe.

Settled events are taken from every run. An intent that was never settled is taken, at its reserve, only
when its run is closed: until then its settlement may still come.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake
from maestro_dagster.costs.spool import Spool, read_file, resolve_events
from maestro_dagster.costs.table import in_period, parse_day

if TYPE_CHECKING:
    import polars as pl

Closed = Callable[[str], bool]
Stored = dict[str, tuple[str, int | None]]  # event id -> phase and cost in the lake


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction of a day did. Sums are nano-USD of the rows that have a price.

    `spool_sum_nano` is counted from the spool row by row in Python: it must equal what the lake has of the
    same events (`lake_sum_nano`). `waiting` counts intents of live runs, left in the spool.
    """

    day: str
    rows: int
    added: int
    sum_nano: int
    unknown: int
    spool_sum_nano: int
    lake_sum_nano: int
    waiting: int
    file: str
    sha256: str
    removed: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        return self.spool_sum_nano == self.lake_sum_nano


def compact_day(spool: Spool | Path, lake: Lake, day: str, closed: Closed) -> CompactionReport:
    """Publishes the day with what the spool has of it, then removes spool files that are wholly in the lake.

    `closed` says of a run id whether its run has ended for good. Running it again changes nothing.
    Raises CostError (`spool-corrupt`, `disk-full`, `lake-verify`, ...) and then publishes nothing.
    """
    from maestro_dagster.costs.frame import frame_events, frame_of, merge_frames, sum_frame, table_of

    spool = spool if isinstance(spool, Spool) else Spool(spool)
    parse_day(day)
    with lake.usage.lock_day(day):
        events, waiting = _collect(spool, day, closed)
        stored = lake.usage.read_day(day)
        old = frame_of(stored) if stored is not None else None
        new = frame_events(events)
        merged = merge_frames([frame for frame in (old, new) if frame is not None])
        unchanged = old is not None and merged.equals(old.select(merged.columns), null_equal=True)
        manifest = lake.usage.manifest(day) if unchanged else None
        if manifest is None:
            manifest = lake.usage.write_day(day, table_of(merged))
    lake.usage.verify_day(day)
    published = lake.usage.read_day(day)
    in_lake = 0
    if published is not None:
        in_lake, _ = sum_frame(frame_of(published).join(new.select("event_id"), on="event_id", how="semi"))
    settled = _settled_costs(old, (event.event_id for event in events if event.phase == "intent"))
    return CompactionReport(
        day=day,
        rows=manifest.rows,
        added=merged.height - (old.height if old is not None else 0),
        sum_nano=manifest.sum_nano,
        unknown=manifest.unknown,
        spool_sum_nano=sum(settled.get(event.event_id, event.cost_nano) or 0 for event in events),
        lake_sum_nano=in_lake,
        waiting=waiting,
        file=manifest.file,
        sha256=manifest.sha256,
        removed=prune_spool(spool, lake, closed),
    )


def spool_days(spool: Spool) -> tuple[str, ...]:
    """Days that the spool has events of, ascending."""
    return tuple(sorted({event.occurred_at[:10] for _, path in spool.files() for event in read_file(path)}))


def prune_spool(spool: Spool, lake: Lake, closed: Closed) -> tuple[str, ...]:
    """Removes the files of closed runs whose every event is in the lake at its price. Gives their names."""
    removed: list[str] = []
    days: dict[str, Stored] = {}
    for run_id, paths, events in spool.read_runs():
        if not closed(run_id) or not _published(lake, events, days):
            continue
        known = {event.event_id for event in events}
        removed += [path.name for path in paths if _remove(path, known)]
    return tuple(removed)


def read_usage(
    spool: Spool,
    lake: Lake,
    *,
    run_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> list[UsageEvent]:
    """Events of spool and lake together, each once, by time."""
    groups = (events for _, _, events in spool.read_runs()) if run_id is None else (spool.read_run(run_id),)
    fresh = [
        event for events in groups for event in events if in_period(event.occurred_at[:10], since, until)
    ]
    stored = lake.read_events(run_id=run_id, since=since, until=until) if lake.usage.days() else []
    return sorted(resolve_events([*stored, *fresh]), key=lambda event: (event.occurred_at, event.event_id))


def _collect(spool: Spool, day: str, closed: Closed) -> tuple[list[UsageEvent], int]:
    events: list[UsageEvent] = []
    waiting = 0
    for run_id, _, run_events in spool.read_runs():
        of_day = [event for event in run_events if event.occurred_at[:10] == day]
        open_intents = {event.event_id for event in of_day if event.phase == "intent"}
        if open_intents and not closed(run_id):
            waiting += len(open_intents)
            of_day = [event for event in of_day if event.event_id not in open_intents]
        events += of_day
    return events, waiting


def _settled_costs(frame: pl.DataFrame | None, event_ids: Iterable[str]) -> dict[str, int | None]:
    """What the lake already knows of intents whose settlement has left the spool."""
    wanted = set(event_ids)
    if frame is None or not wanted:
        return {}
    rows = frame.select("event_id", "phase", "cost_nano").iter_rows()
    return {event_id: cost for event_id, phase, cost in rows if phase == "settled" and event_id in wanted}


def _published(lake: Lake, events: Iterable[UsageEvent], days: dict[str, Stored]) -> bool:
    """Whether the lake has every event at its price, or a settlement in place of an intent."""
    for event in events:
        day = event.occurred_at[:10]
        if day not in days:
            days[day] = _read_stored(lake, day)
        found = days[day].get(event.event_id)
        replaced = found is not None and found[0] == "settled" and event.phase == "intent"
        if not replaced and found != (event.phase, event.cost_nano):
            return False
    return True


def _read_stored(lake: Lake, day: str) -> Stored:
    from maestro_dagster.costs.frame import frame_of

    table = lake.usage.read_day(day)
    rows = () if table is None else frame_of(table).select("event_id", "phase", "cost_nano").iter_rows()
    return {event_id: (phase, cost) for event_id, phase, cost in rows}


def _remove(path: Path, known: set[str]) -> bool:
    """Only a file that nobody writes any more, and with nothing in it that came after the check."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if all(event.event_id in known for event in read_file(path)):
            path.unlink()
            return True
    except BlockingIOError:
        pass
    finally:
        os.close(handle)
    return False
