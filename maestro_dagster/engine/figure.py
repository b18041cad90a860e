"""What the journal tells of runs, steps, decisions and receipts, as figures.

A run that has ended and has its receipt is read once; those that are open, and the new ones, each time.
Runs are found by their number: the journal has one writer, so a higher number never shows before a lower.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from maestro_dagster.database.interface import Connection
from maestro_dagster.engine.figure_evidence import Listing, LostReceipts
from maestro_dagster.engine.journal import Journal
from maestro_dagster.engine.row import FINAL
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.metric import Sheet

_CHUNK = 400  # runs in one query
_STUCK_SECONDS = 120.0
_SEAL_SECONDS = 60.0  # that an ended run has for its receipt
_LATE_SECONDS = 5.0  # from publish to start
_TOLERATED = 0.05  # share of a minute's runs that may be late
_WINDOW_MINUTES = 28 * 24 * 60
_BUDGET_MINUTES = 30  # of bad minutes within the window
# How a run ends that the platform, and not its own steps, has lost.
_LOST: Final = frozenset(
    {"attempt-lost", "run-incomplete", "disk-full", "sandbox-setup", "sandbox-unavailable", "dagster-run"}
)
_RUN = (
    "run_id, seq, flow, cause, status, requested_at, started_at, finished_at, git, error,"
    " CASE WHEN decision IS NULL THEN 0 ELSE 1 END, evidence_path"
)
Received = Callable[[Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class _Run:
    run_id: str
    seq: int
    flow: str
    cause: str
    status: str
    requested_at: float
    started_at: float | None
    finished_at: float | None
    event_id: str
    error: str
    decided: bool
    evidence: str | None

    @property
    def settled(self) -> bool:
        return self.status in FINAL and self.evidence is not None


class _Minutes:
    """Which minutes were bad, by number since the epoch."""

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.starts: dict[int, list[int]] = defaultdict(lambda: [0, 0])  # all, late

    def merge(self, other: _Minutes) -> _Minutes:
        both = _Minutes()
        both.lost = self.lost | other.lost
        for source in (self.starts, other.starts):
            for minute, (count, late) in source.items():
                both.starts[minute][0] += count
                both.starts[minute][1] += late
        return both

    def forget(self, now: float) -> None:
        first = int(now // 60) - _WINDOW_MINUTES
        self.lost = {minute for minute in self.lost if minute > first}
        for minute in [minute for minute in self.starts if minute <= first]:
            del self.starts[minute]

    def burn(self, now: float) -> dict[str, float]:
        """Percent of the error budget that is used, by objective."""
        first = int(now // 60) - _WINDOW_MINUTES
        late = sum(
            1 for minute, (count, late) in self.starts.items() if minute > first and late > count * _TOLERATED
        )
        lost = sum(minute > first for minute in self.lost)
        return {
            "availability": 100.0 * lost / _BUDGET_MINUTES,
            "publish_to_start": 100.0 * late / _BUDGET_MINUTES,
        }


class JournalFigures:
    """A MetricSource. `received` gives when events came in, by id (seconds since the epoch); `listing` is of
    the store in which receipts are looked for.
    """

    name = "journal"

    def __init__(
        self,
        journal: Journal,
        received: Received = lambda _: {},
        clock: Callable[[], float] = time.time,
        listing: Listing | None = None,
    ) -> None:
        self._journal = journal
        self._received = received
        self._clock = clock
        self._lock = threading.Lock()
        self._settled = Sheet()  # of runs that are read no more
        self._minutes = _Minutes()
        self._last = 0
        self._open: set[str] = set()
        self._alone: dict[str, float] = {}  # runs that nobody holds: since when
        self._receipts = LostReceipts(listing)

    def fill(self, sheet: Sheet) -> None:
        with self._lock:
            now = self._clock()
            runs = self._read_runs()
            done = [run for run in runs if run.settled]
            left = [run for run in runs if not run.settled]
            settled, settled_minutes = self._count(done, now)
            live, live_minutes = self._count(left, now)
            # Everything was read: from here on nothing fails, so that no run is counted twice.
            self._settled.add_sheet(settled)
            self._minutes = self._minutes.merge(settled_minutes)
            self._minutes.forget(now)
            self._last = max([self._last, *(run.seq for run in runs)])
            self._open = {run.run_id for run in left}
            for run in done:
                if run.evidence:
                    self._receipts.add(run.run_id, run.evidence)
            sheet.add_sheet(self._settled)
            sheet.add_sheet(live)
            for slo, percent in self._minutes.merge(live_minutes).burn(now).items():
                sheet.add(name.ERROR_BUDGET_BURN, percent, slo)
            self._tell_open(sheet, left, now)

    def _read_runs(self) -> list[_Run]:
        """New ones, and those that were open."""
        since, open_runs = self._last, sorted(self._open)

        def ask(connection: Connection) -> list[_Run]:
            new = connection.execute(f"SELECT {_RUN} FROM run WHERE seq > ? ORDER BY seq", (since,))  # noqa: S608
            found = [_parse(row) for row in new]
            for part in _split(open_runs):
                query = f"SELECT {_RUN} FROM run WHERE run_id IN ({_marks(part)})"  # noqa: S608
                found += [_parse(row) for row in connection.execute(query, part)]
            return found

        return self._journal.ask(ask)

    def _count(self, runs: Sequence[_Run], now: float) -> tuple[Sheet, _Minutes]:
        sheet, minutes = Sheet(), _Minutes()
        received = self._received([run.event_id for run in runs if run.event_id]) if runs else {}
        for run in runs:
            _count_run(run, sheet)
            _count_start(run, sheet, minutes, received.get(run.event_id), now)
        flows = {run.run_id: run.flow for run in runs if run.started_at is not None or run.status in FINAL}
        for part in _split(list(flows)):
            sheet.add_sheet(self._journal.ask(partial(_count_steps, run_ids=part, flows=flows)))
        return sheet, minutes

    def _tell_open(self, sheet: Sheet, runs: Iterable[_Run], now: float) -> None:
        still = [run for run in runs if run.status not in FINAL]
        for status in ("requested", "running"):
            sheet.add(name.RUNS_OPEN, sum(run.status == status for run in still), status)
        requested = [run.requested_at for run in still if run.status == "requested"]
        sheet.add(name.QUEUE_DEPTH, len(requested), "runs")
        sheet.add(name.QUEUE_OLDEST, max(0.0, now - min(requested, default=now)), "runs")
        oldest = min((run.requested_at for run in still), default=now)
        sheet.add(name.RUN_OLDEST, max(0.0, now - oldest))
        alone = [
            run.run_id
            for run in still
            if run.status == "running" and not self._journal.has_live_lease(run.run_id)
        ]
        self._alone = {run_id: self._alone.get(run_id, now) for run_id in alone}
        sheet.add(name.RUNS_STUCK, sum(now - since >= _STUCK_SECONDS for since in self._alone.values()))
        unsealed = [run for run in runs if run.status in FINAL and run.finished_at is not None]
        missing = sum(now - (run.finished_at or now) > _SEAL_SECONDS for run in unsealed)
        sheet.add(name.RECEIPTS_FAILED, missing, "missing")
        sheet.add(name.RECEIPTS_FAILED, self._receipts.count(), "lost")


def _count_run(run: _Run, sheet: Sheet) -> None:
    sheet.add(name.RUNS_REQUESTED, 1, run.flow, run.cause)
    if run.decided:
        denied = run.status == "denied"
        sheet.add(name.POLICY_DECISIONS, 1, run.flow, "deny" if denied else "allow")
        sheet.add(name.POLICY_DENIALS, int(denied), run.flow)
    if run.status in FINAL:
        sheet.add(name.RUNS, 1, run.flow, run.status)
        if run.started_at is not None and run.finished_at is not None:
            sheet.observe(name.RUN_DURATION, 1000 * max(0.0, run.finished_at - run.started_at), run.flow)
    if run.settled:
        sheet.add(name.RECEIPTS, 1)


def _count_start(run: _Run, sheet: Sheet, minutes: _Minutes, received: float | None, now: float) -> None:
    published = received or run.requested_at
    if run.started_at is not None:
        waited = max(0.0, run.started_at - published)
        sheet.observe(name.PUBLISH_TO_START, 1000 * waited, run.flow)
    elif run.status == "requested":
        waited = max(0.0, now - published)
    else:
        return  # denied, or cancelled before it began
    known = minutes.starts[int(published // 60)]
    known[0] += 1
    known[1] += waited > _LATE_SECONDS
    if run.status == "failed" and run.error in _LOST and run.finished_at is not None:
        minutes.lost.add(int(run.finished_at // 60))


def _count_steps(connection: Connection, run_ids: Sequence[str], flows: Mapping[str, str]) -> Sheet:
    sheet, marks = Sheet(), _marks(run_ids)
    steps = connection.execute(
        "SELECT run_id, status, count(*), coalesce(sum(cost_nano), 0),"  # noqa: S608 - marks only
        " sum(CASE WHEN cost_nano IS NULL THEN 1 ELSE 0 END), coalesce(sum(tokens), 0) FROM step"
        f" WHERE run_id IN ({marks}) AND iteration < 0 AND finished_at IS NOT NULL GROUP BY run_id, status",
        run_ids,
    )
    for run_id, status, count, nano, unknown, tokens in steps:
        flow = flows[run_id]
        sheet.add(name.STEPS, int(count), flow, status)
        sheet.add(name.BUDGET_SPEND, int(nano) / 1e9, flow)
        sheet.add(name.UNPRICED, int(unknown), flow)
        sheet.add(name.TOKENS, int(tokens), flow)
    attempts = connection.execute(
        "SELECT a.run_id, a.outcome, r.status, count(*) FROM attempt a JOIN run r ON r.run_id = a.run_id"  # noqa: S608
        f" WHERE a.run_id IN ({marks}) GROUP BY a.run_id, a.outcome, r.status",
        run_ids,
    )
    for run_id, outcome, status, count in attempts:
        if outcome is not None or status in FINAL:
            sheet.add(name.STEP_ATTEMPTS, int(count), flows[run_id], outcome or "lost")
    calls = connection.execute(
        f"SELECT detail FROM step WHERE run_id IN ({marks}) AND iteration < 0 AND detail LIKE ?",  # noqa: S608
        (*run_ids, '%"calls":%'),
    )
    for (detail,) in calls:
        for call in json.loads(detail).get("calls", ()):
            _count_calls(call, sheet)
    return sheet


def _count_calls(call: Mapping[str, Any], sheet: Sheet) -> None:
    labels = (str(call["provider"]), str(call["model"]))
    sheet.add(name.ROUTER_REQUESTS, call["requests"], *labels)
    sheet.add(name.ROUTER_SUCCESS, call["success"], *labels)
    for kind, count in call["failures"].items():
        sheet.add(name.ROUTER_FAILURES, count, *labels, kind)
    sheet.add_counts(name.ROUTER_LATENCY, call["buckets"], call["sum_ms"], *labels)


def _parse(row: Sequence[Any]) -> _Run:
    git = json.loads(row[8]) if row[8] and row[8] != "{}" else {}
    error = json.loads(row[9]) if row[9] else {}
    return _Run(
        run_id=row[0],
        seq=row[1],
        flow=row[2],
        cause=row[3],
        status=row[4],
        requested_at=row[5],
        started_at=row[6],
        finished_at=row[7],
        event_id=str(git.get("event_id", "")),
        error=str(error.get("code", "")),
        decided=bool(row[10]),
        evidence=row[11],
    )


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _split(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
