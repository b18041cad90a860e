"""From the journal to what forges shall show: finds the runs of repositories that are reported to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from maestro_dagster.errors import JournalError
from maestro_dagster.events.report import (
    ENDED,
    MOST_STEPS,
    RunReport,
    StepLine,
    Wish,
    make_wishes,
    read_standing,
)

if TYPE_CHECKING:
    from maestro_dagster.engine.row import RunRow, StepRow
    from maestro_dagster.events.outbox import Outbox

_FIRST_LOOK = 8  # newest runs that an idle pass looks at
_MOST_RUNS = 10_000  # of one look
_BATCH = 100  # runs in one durable write
_YOUNG = 7 * 86400.0  # seconds; older runs are not begun to be told of, and no longer waited for
_EVIDENCE_SECONDS = 60.0  # that a run which has ended gets for its evidence
_UNRUN = frozenset({"skipped", "cancelled", "waiting"})
_WHOLE = -1  # a step itself, not one of its iterations


class RunBook(Protocol):
    """What is asked of the journal."""

    def runs(self, limit: int = 50) -> list[RunRow]: ...

    def run(self, run_id: str) -> RunRow: ...

    def statuses(self, status: str) -> list[tuple[str, bool]]: ...

    def steps(self, run_id: str) -> list[StepRow]: ...


class Collector:
    """Moves what changed in the journal into the outbox; a crash at any point repeats or delays, no more.

    Args:
        book: the journal.
        outbox: where it goes.
        public_url: of this server, for links; None: none.
        prefix: of the names of statuses.
        hide: what a forge may read of an error; a forge can be public.
        clock: seconds since the epoch.

    """

    def __init__(
        self,
        book: RunBook,
        outbox: Outbox,
        *,
        public_url: str | None = None,
        prefix: str = "maestro",
        hide: Callable[[str], str] = lambda text: text,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._outbox = book, outbox
        self._public_url = public_url.rstrip("/") if public_url else None
        self._prefix, self._hide, self._clock = prefix, hide, clock
        self._newest: str | None = None  # the newest run of the last look
        self._clones: Mapping[str, str] = {}

    def collect(self, clones: Mapping[str, str]) -> int:
        """One pass; how many wishes changed. `clones`: what a run's Git repository is -> its name."""
        if not clones:
            return 0
        if clones != self._clones:  # a repository was added: its runs may have been passed over
            self._clones, self._newest = dict(clones), None
        self._find_runs()
        return self._look_at_runs()

    def _find_runs(self) -> None:
        limit = _FIRST_LOOK
        while True:
            found = self._book.runs(limit)
            fresh = _before(found, self._newest)
            done = len(fresh) < len(found) or len(found) < limit or limit >= _MOST_RUNS
            if done or fresh[-1].requested_at < self._clock() - _YOUNG:
                break
            limit *= 8
        young = [row for row in fresh if row.requested_at >= self._clock() - _YOUNG]
        named = [(row.run_id, self._clones.get(row.git.get("repository", ""))) for row in young]
        self._outbox.watch([(run_id, name) for run_id, name in reversed(named) if name], self._clock())
        if found:
            self._newest = found[0].run_id

    def _look_at_runs(self) -> int:
        watched = self._outbox.watched()
        if not watched:
            return 0
        waiting = {run_id for run_id, _ in self._book.statuses("requested")}
        now, changed = self._clock(), 0
        wishes: list[Wish] = []
        marks: dict[str, tuple[str, bool]] = {}
        for run_id, repository, mark, noted_at in watched:
            if run_id in waiting and mark == "requested":
                continue
            row = self._find(run_id)
            if row is None:
                marks[run_id] = ("lost", True)
                continue
            new = self._mark(row, now)
            over = new.startswith("ended") or now - noted_at > _YOUNG
            if new != mark or over:
                wishes += self._wishes(row, repository, new)
                marks[run_id] = (new, over)
            if len(marks) >= _BATCH:
                changed += self._outbox.put(wishes, marks, now)
                wishes, marks = [], {}
        return changed + (self._outbox.put(wishes, marks, now) if marks else 0)

    def _find(self, run_id: str) -> RunRow | None:
        """None: a journal from a backup may be older than the outbox."""
        try:
            return self._book.run(run_id)
        except JournalError as error:
            if error.error_code != "run-unknown":
                raise
            return None

    def _mark(self, row: RunRow, now: float) -> str:
        """What of a run has been told: it is told again when this changes."""
        if row.status not in ENDED:
            return f"running {len(row.dagster_runs)}" if row.status == "running" else "requested"
        if row.evidence_digest is not None:
            return f"ended {row.status} {row.evidence_digest}"
        # Its evidence is being made; a run without any is not one that succeeded.
        late = row.finished_at is not None and now - row.finished_at > _EVIDENCE_SECONDS
        return "unproven" if late else "closing"

    def _wishes(self, row: RunRow, repository: str, mark: str) -> list[Wish]:
        if mark == "closing" or not row.git.get("sha"):
            return []
        return make_wishes(self._report(row, repository, mark), self._prefix)

    def _report(self, row: RunRow, repository: str, mark: str) -> RunReport:
        ended = row.status in ENDED
        steps = [step for step in self._book.steps(row.run_id) if step.iteration == _WHOLE] if ended else []
        steps.sort(key=lambda step: (step.started_at or step.finished_at or math.inf, step.step))
        lines = [_line(step) for step in steps[:MOST_STEPS]]
        unproven = mark == "unproven"
        return RunReport(
            repository=repository,
            run_id=row.run_id,
            flow=row.flow,
            standing="failed" if unproven else read_standing(row.status),
            sha=row.git["sha"],
            ref=row.git.get("ref", ""),
            requested_at=row.requested_at,
            number=_number(row.git.get("number")),
            event=row.git.get("event", ""),
            started_at=row.started_at,
            finished_at=row.finished_at,
            cost_nano=_sum([_line(step).cost_nano for step in steps]) if ended else None,
            evidence=row.evidence_digest,
            url=self._url(row),
            problem="the run has ended and there is no evidence of it"
            if unproven
            else self._hide(_problem(row, steps)),
            steps=tuple(lines),
            more_steps=len(steps) - len(lines),
        )

    def _url(self, row: RunRow) -> str | None:
        if self._public_url is None:
            return None
        runs = row.dagster_runs
        return f"{self._public_url}/dagster/runs/{runs[-1]}" if runs else f"{self._public_url}/dagster/runs"


def _before(rows: Sequence[RunRow], known: str | None) -> list[RunRow]:
    """The rows, newest first, up to the one that is known."""
    found = []
    for row in rows:
        if row.run_id == known:
            break
        found.append(row)
    return found


def _line(step: StepRow) -> StepLine:
    cost = 0 if step.cost_nano is None and step.status in _UNRUN else step.cost_nano
    return StepLine(step.step, step.uses, step.status, step.duration_ms, cost)


def _sum(costs: Sequence[int | None]) -> int | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _number(text: object) -> int | None:
    """The number of a pull request; facts of Git are texts."""
    told = str(text) if text is not None else ""
    return int(told) if told.isascii() and told.isdigit() and len(told) < 12 else None  # noqa: PLR2004


def _problem(row: RunRow, steps: Sequence[StepRow]) -> str:
    """The first thing that went wrong: a denial, the error of a step, that of the run."""
    if row.status == "denied" and row.decision:
        verdicts = row.decision.get("verdicts", ())
        told = [each.get("message", "") for verdict in verdicts for each in verdict.get("violations", ())]
        return next((message for message in told if message), "denied by policy")
    if row.status == "succeeded":
        return ""
    failed = next((step for step in steps if step.status == "failed" and step.error), None)
    if failed is not None and failed.error:
        return f"{failed.step}: {failed.error.get('fact', '')}"
    return (row.error or {}).get("fact", "")
