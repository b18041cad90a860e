"""Runs some steps of a flow at once, as far as their needs allow, and acknowledges each as it ends.

What ends together is acknowledged together: one transaction holds the end of a step, what is skipped
because of it, and the first attempts of the steps that may start now. Those start when it is durable.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.database.interface import Connection
from maestro_dagster.engine import writing
from maestro_dagster.engine.attempt import Assignment, Trial
from maestro_dagster.engine.interface import StepOutcome
from maestro_dagster.engine.loop import KEPT, MAP, MapRun
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.schedule import Skip, Standing, advance, build_graph
from maestro_dagster.engine.scope import Prepared, RunScope
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import Settler, plain_row
from maestro_dagster.engine.source import Source
from maestro_dagster.engine.trace import note_trial
from maestro_dagster.engine.trying import Effort, Trier
from maestro_dagster.engine.writer import Delivery
from maestro_dagster.errors import JournalError, MaestroError, StepError
from maestro_dagster.manifest.model import Flow, Task

Emit = Callable[[StepOutcome], None]


@dataclass(frozen=True, slots=True)
class Start:
    """A step that may begin. `row` is how it stands, `prepared` what it works on."""

    task: Task
    row: StepRow
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Ending:
    row: StepRow
    effort: Effort


class Segment:
    """The steps `selected` of one run. `rows` is what the journal knows of the run so far."""

    def __init__(
        self,
        services: Services,
        run: RunRow,
        flow: Flow,
        rows: Sequence[StepRow],
        *,
        selected: Iterable[str],
        owner: str,
        emit: Emit,
        source: Source | None = None,
        assets: Mapping[str, Artifact] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._services = services
        self._run = run
        self._tasks = {task.id: task for task in flow.tasks}
        self._graph = build_graph(flow)
        self._rows = {row.step: row for row in rows if row.iteration < 0}
        self._iterations = [row for row in rows if row.iteration >= 0]
        self._standing = {step: _standing(row) for step, row in self._rows.items() if row.ended}
        self._mine = frozenset(step for step in selected if step not in self._standing)
        self._emit = emit
        self._source = source
        self._assets = assets or {}
        self._pending: dict[str, bytes] = {}  # contents whose storing is under way
        self._scope = RunScope(run, flow, self._rows, self._read)
        self._settler = Settler(run, self._files_of, services.redactor)
        self._trier = Trier(services, run, flow, owner, self._submit, lambda: self.cancelled, chance)
        self._queue: deque[str] = deque()
        self._active = 0
        self._running: set[asyncio.Task[None]] = set()
        self._interruptible: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        """Returns when every step of the segment has ended. Raises what makes going on impossible."""
        with self._trier, self._trier.open_segment(self._mine):
            watch = asyncio.create_task(self._watch())
            watch.add_done_callback(self._ended)
            try:
                if self._rows:
                    self._trier.recall()
                await self._begin()
                while self._running and self._failure is None:
                    self._changed.clear()
                    await self._changed.wait()
                if self._failure is None and self.cancelled:
                    await self._cancel_rest()
            finally:
                watch.cancel()
                await self._stop()
        if self._failure is not None:
            raise self._failure
        self._check_ended()

    def cancel(self) -> None:
        """The run is to end: what runs is interrupted and acknowledged as cancelled."""
        self.cancelled = True
        for task in list(self._interruptible):
            task.cancel()

    # The way of one step

    async def _work(self, start: Start, number: int) -> None:
        task, row = start.task, start.row
        assignment = Assignment(task, task.uses, self._services.catalogue.kind(task.uses), start.prepared)
        iterations: Sequence[Mapping[str, Any]] = ()
        myself = asyncio.current_task()
        assert myself is not None  # noqa: S101 - for the type checker
        self._interruptible.add(myself)
        try:
            if self.cancelled:
                effort = Effort(Trial(time.time(), cancelled=True), number)
            elif task.uses.startswith(MAP):
                with self._trier.open_span(assignment, number) as span:
                    effort, iterations = await self._map(assignment).work(number)
                    note_trial(span, effort.trial)
            else:
                effort = await self._trier.persist(assignment, row, number)
        except asyncio.CancelledError:
            if not self.cancelled:
                raise
            effort = Effort(Trial(time.time(), cancelled=True), number)
        finally:
            self._interruptible.discard(myself)
            self._active -= 1
        if acts := self._trier.acts(task.id):
            effort.trial.facts = {**effort.trial.facts, "budget_acts": list(acts)}
        ended = self._settler.settle_trial(
            row,
            start.prepared,
            effort.trial,
            self._trier.bill(task.id),
            now=time.time(),
            attempts=effort.number,
            preview=effort.preview,
            iterations=iterations,
            calls=self._trier.calls(task.id),
        )
        await self._finish(Ending(ended, effort))

    def _map(self, assignment: Assignment) -> MapRun:
        step = assignment.task.id
        return MapRun(
            run=self._run,
            scope=self._scope,
            trier=self._trier,
            catalogue=self._services.catalogue,
            store=self._services.store,
            submit=self._submit,
            known={row.iteration: row for row in self._iterations if row.step == step},
            assignment=assignment,
        )

    async def _finish(self, ending: Ending) -> None:
        trial = ending.effort.trial
        deliveries = list(ending.effort.deliveries)
        if trial.data is not None and trial.artifact is not None:
            self._pending[trial.artifact.digest] = trial.data
            content = (trial.data, trial.artifact.media_type)
            deliveries.append(Delivery(self._services.store.put_many, (content,)))
        skips = self._note(ending.row)
        ended, starts = self._fill()
        await self._commit(ending, [*skips, *ended], starts, deliveries)
        if trial.artifact is not None:
            self._pending.pop(trial.artifact.digest, None)

    # The whole

    async def _begin(self) -> None:
        ready, skips = advance(self._graph, self._standing, sorted(self._mine), self._mine)
        self._queue.extend(ready)
        skipped = [self._skip(skip) for skip in skips]
        ended, starts = self._fill()
        await self._commit(None, skipped + ended, starts, ())

    def _note(self, row: StepRow) -> list[StepRow]:
        """A step has ended: its dependents are judged. Gives the rows of those that are skipped."""
        self._rows[row.step] = row
        self._standing[row.step] = _standing(row)
        if self.cancelled:
            return []
        ready, skips = advance(self._graph, self._standing, self._graph.dependents[row.step], self._mine)
        self._queue.extend(ready)
        return [self._skip(skip) for skip in skips]

    def _fill(self) -> tuple[list[StepRow], list[Start]]:
        """Takes steps from the queue while there is room: some end without an attempt, the others start."""
        ended: list[StepRow] = []
        starts: list[Start] = []
        while self._queue and self._active < self._services.limits.steps_at_once and not self.cancelled:
            found = self._prepare(self._tasks[self._queue.popleft()])
            if isinstance(found, Start):
                starts.append(found)
                self._active += 1
            else:
                ended += [found, *self._note(found)]
        return ended, starts

    async def _commit(
        self,
        ending: Ending | None,
        ended: Sequence[StepRow],
        starts: Sequence[Start],
        deliveries: Sequence[Delivery],
    ) -> None:
        if ending is None and not ended and not starts:
            return
        run_id, owner, now = self._run.run_id, self._trier.owner, time.time()

        def work(connection: Connection) -> list[int]:
            if ending is not None:
                row, effort = ending.row, ending.effort
                writing.end_attempt(connection, run_id, row, effort.number, row.status, row.error, now)
                writing.acknowledge(connection, run_id, row, owner)
            for row in ended:
                writing.acknowledge(connection, run_id, row, owner)
            return [writing.begin_attempt(connection, run_id, start.row, owner, now) for start in starts]

        numbers = await self._submit(work, deliveries)
        if ending is not None:
            self._emit(ending.row.to_outcome(fresh=True))
        for row in ended:
            self._emit(row.to_outcome(fresh=True))
        for start, number in zip(starts, numbers, strict=True):
            self._spawn(self._work(start, number))

    def _prepare(self, task: Task) -> Start | StepRow:
        """What a step needs to begin, or the row of one that ends at once: skipped, reused or failed."""
        now = time.time()
        row = self._row(task)
        try:
            self._services.catalogue.kind(task.uses)
            self._check_lost(row)
            if task.if_ is not None and not self._scope.holds(task.if_):
                return self._end_unrun(task, "skipped", "its `if` does not hold", now)
            keep = KEPT if task.uses.startswith(MAP) else ()
            prepared = self._scope.prepare(task, self._assets, keep=keep)
            if self._source is not None and (found := self._source.find(task, prepared)) is not None:
                return self._settler.settle_reused(row, found, self._source.run_id, prepared, now=now)
        except MaestroError as error:
            return self._settler.settle_error(plain_row(task, row), error, self._trier.bill(task.id), now=now)
        row = replace(
            row,
            status="running",
            input_digest=prepared.input_digest,
            config_digest=prepared.config_digest,
            started_at=row.started_at or now,
        )
        return Start(task, row, prepared)

    def _check_lost(self, row: StepRow) -> None:
        if not row.attempts:
            return
        _, _, lost = self._services.journal.attempts(self._run.run_id, row.step, row.iteration)
        if lost >= self._services.limits.lost_attempts:
            raise StepError(
                f"{lost} attempts ended with the death of their process",
                place=f"run {self._run.run_id}, step {row.step}",
                remedy="look for what kills it: memory, a limit of the machine, an operator",
                code="attempt-lost",
            )

    def _skip(self, skip: Skip) -> StepRow:
        row = self._end_unrun(self._tasks[skip.step], "skipped", skip.reason, time.time())
        self._rows[skip.step] = row
        return row

    def _end_unrun(self, task: Task, status: str, reason: str, now: float) -> StepRow:
        row = plain_row(task, self._row(task))
        return self._settler.settle_unrun(row, status, reason, self._trier.bill(task.id), now=now)

    def _row(self, task: Task) -> StepRow:
        """How the step stands; a new row when it was never begun."""
        row = self._rows.get(task.id)
        if row is not None:
            return row
        try:
            asset = bool(self._services.catalogue.kind(task.uses).asset)
        except MaestroError:
            asset = True
        return StepRow(step=task.id, uses=task.uses, status="waiting", asset=asset)

    async def _cancel_rest(self) -> None:
        now = time.time()
        left = sorted(self._mine - self._standing.keys())
        rest = [
            self._end_unrun(self._tasks[step], "cancelled", "the run was cancelled", now) for step in left
        ]
        for row in rest:
            self._note(row)
        await self._commit(None, rest, (), ())

    async def _watch(self) -> None:
        """Looks for a cancellation."""
        journal, run_id = self._services.journal, self._run.run_id
        while True:
            if journal.is_cancelled(run_id) is not None:
                self.cancel()
                self._changed.set()
                return
            await asyncio.sleep(self._services.limits.cancel_poll)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
        self._changed.set()

    async def _stop(self) -> None:
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._services.limits.cancel_grace)

    def _check_ended(self) -> None:
        left = sorted(self._mine - self._standing.keys())
        if left:
            needs = [need for need in self._graph.needs[left[0]] if need not in self._standing]
            raise JournalError(
                f"the step {left[0]} waits for {', '.join(needs)}, which did not run",
                place=f"run {self._run.run_id}",
                remedy="run the steps that it needs first, or retry the run",
                code="need-unfinished",
            )

    def _submit(
        self, work: Callable[[Connection], Any], deliveries: Sequence[Delivery] = ()
    ) -> asyncio.Future[Any]:
        return asyncio.wrap_future(self._services.journal.submit(work, deliveries))

    def _read(self, digest: str) -> bytes:
        data = self._pending.get(digest)
        return self._services.store.read(digest) if data is None else data

    def _files_of(self, artifact: Artifact) -> tuple[tuple[str, str], ...]:
        return tuple((entry.path, entry.digest) for entry in self._services.store.read_tree(artifact.digest))


def _standing(row: StepRow) -> Standing:
    chosen = None if row.chosen is None else frozenset(row.chosen)
    return Standing(row.status, chosen)
