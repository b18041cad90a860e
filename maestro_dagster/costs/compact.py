"""From the spool to the lake: one day at a time, each event once, nothing removed before it is safe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.costs.interface import UsageEvent, UsageSpool
from maestro_dagster.costs.lake import Lake
from maestro_dagster.costs.schema import usage_schema
from maestro_dagster.costs.spool import Spool, resolve_events
from maestro_dagster.costs.stage import (
    Candidate,
    Closed,
    Outcome,
    collect_day,
    judge_rows,
    publish_candidate,
    quarantine_candidate,
    stage_day,
)
from maestro_dagster.costs.table import DayManifest, in_period, parse_day

if TYPE_CHECKING:
    import polars as pl

Check = Callable[[Candidate], Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction of a day did. Sums are nano-USD of the rows that have a price.

    `spool_sum_nano` is counted from the spool: it must equal what the lake has of the same events
    (`lake_sum_nano`). `waiting` counts intents of live runs, left in the spool. A day in quarantine was not
    published: the figures are those of the day that is still served. A day that never had usage is not
    published either: `file` and `sha256` are empty.
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
    quarantined: bool = False
    outcomes: tuple[Outcome, ...] = ()

    @property
    def published(self) -> bool:
        """Whether the lake has the day now."""
        return bool(self.file)

    @property
    def balanced(self) -> bool:
        return self.spool_sum_nano == self.lake_sum_nano


def compact_day(
    spool: UsageSpool | Path, lake: Lake, day: str, closed: Closed, check: Check | None = None
) -> CompactionReport:
    """Publishes the day with what the spool has of it, then removes spool files that are wholly in the lake.

    `closed` says of a run id whether its run has ended for good. Where an outcome of `check` blocks, the day
    goes into quarantine instead. A day without usage is not published. Running it again changes nothing.
    Raises CostError (`spool-corrupt`, `disk-full`, `lake-verify`, ...) and then publishes nothing.
    """
    spool = Spool(spool) if isinstance(spool, Path) else spool
    with lake.usage.lock_day(parse_day(day)):
        candidate = stage_day(spool, lake, day, closed)
        outcomes = tuple(check(candidate)) if check is not None else ()
        if any(outcome.blocks for outcome in outcomes):
            quarantine_candidate(lake, candidate, outcomes)
            return _report(candidate, candidate.base, 0, (), outcomes, quarantined=True)
        manifest = publish_candidate(lake, candidate)
        in_lake = _sum_again(lake, candidate)
        removed = prune_candidate(spool, lake, candidate)
    return _report(candidate, manifest, in_lake, removed, outcomes, quarantined=False)


def spool_days(spool: UsageSpool) -> tuple[str, ...]:
    """Days that the spool has events of, ascending."""
    return spool.days()


def prune_candidate(spool: UsageSpool, lake: Lake, candidate: Candidate) -> tuple[str, ...]:
    """Removes the files of ended runs whose every event has been published. Gives their names.

    Events of the candidate's day are in the lake by now; a file with other days is looked at again.
    """
    ready = {
        source.name: source.end
        for source in candidate.sources
        if source.closed and source.whole and not source.conflict
    }
    rest = {
        source.name: source.end
        for source in candidate.sources
        if source.closed and not source.whole and not source.conflict
    }
    return _remove(spool, ready | _published(spool, lake, rest))


def prune_spool(spool: UsageSpool, lake: Lake, closed: Closed) -> tuple[str, ...]:
    """The same for all files, whatever day they are of."""
    ended = functools.cache(closed)
    files = {chunk.source: chunk.end for chunk in spool.chunks() if ended(chunk.run_id)}
    return _remove(spool, _published(spool, lake, files))


def read_usage(
    spool: UsageSpool,
    lake: Lake,
    *,
    run_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> list[UsageEvent]:
    """Events of spool and lake together, each once, by time."""
    runs = spool.runs() if run_id is None else (run_id,)
    fresh = [
        event
        for run in runs
        for event in spool.read_run(run)
        if in_period(event.occurred_at[:10], since, until)
    ]
    stored = lake.read_events(run_id=run_id, since=since, until=until) if lake.usage.days() else []
    return sorted(resolve_events([*stored, *fresh]), key=lambda event: (event.occurred_at, event.event_id))


def _published(spool: UsageSpool, lake: Lake, files: Mapping[str, int]) -> dict[str, int]:
    """Those of the files whose every event the lake has, at its cost or settled."""
    days: dict[str, set[str]] = {}
    left: dict[str, int] = {}  # a file without an event has none that the lake lacks
    for chunk in spool.chunks(None, files):
        left[chunk.source] = files[chunk.source]
        for day in chunk.others:
            days.setdefault(day, set()).add(chunk.source)
    for day, names in days.items():
        if lake.usage.manifest(day) is None:
            left = {name: end for name, end in left.items() if name not in names}
    for day, names in days.items():
        if wanted := names & left.keys():
            frame, chunks = collect_day(spool, day, wanted)
            judged = judge_rows(frame, _read_narrow(lake, day))
            wrong = judged.filter(judged["lacking"] | judged["conflict"])["source"].unique()
            left = {n: end for n, end in left.items() if n not in {chunks[index].source for index in wrong}}
    return left


def _remove(spool: UsageSpool, files: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(Path(name).name for name, end in sorted(files.items()) if spool.remove(name, end))


def _read_narrow(lake: Lake, day: str) -> pl.DataFrame:
    """event_id, phase, cost_nano of what is published of the day."""
    import polars as pl

    from maestro_dagster.costs.frame import nano_of

    table = lake.usage.read_day(day, ["event_id", "phase", "cost_usd"])
    if table is None:
        table = usage_schema().empty_table()
    frame = pl.from_arrow(table.select(["event_id", "phase"]))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a table became no frame")
    return frame.with_columns(pl.Series("cost_nano", nano_of(table.column("cost_usd")), pl.Int64))


def _sum_again(lake: Lake, candidate: Candidate) -> int:
    """What the published file has of the spool's events, read back."""
    from maestro_dagster.costs.frame import sum_frame

    ids = candidate.frame.select("event_id")
    return sum_frame(_read_narrow(lake, candidate.day).join(ids, on="event_id", how="semi"))[0]


def _report(
    candidate: Candidate,
    manifest: DayManifest | None,
    in_lake: int,
    removed: tuple[str, ...],
    outcomes: tuple[Outcome, ...],
    *,
    quarantined: bool,
) -> CompactionReport:
    return CompactionReport(
        day=candidate.day,
        rows=manifest.rows if manifest else 0,
        added=0 if quarantined else candidate.table.num_rows - candidate.published.num_rows,
        sum_nano=manifest.sum_nano if manifest else 0,
        unknown=manifest.unknown if manifest else 0,
        spool_sum_nano=candidate.spool_sum_nano,
        lake_sum_nano=in_lake,
        waiting=candidate.waiting,
        file=manifest.file if manifest else "",
        sha256=manifest.sha256 if manifest else "",
        removed=removed,
        quarantined=quarantined,
        outcomes=outcomes,
    )
