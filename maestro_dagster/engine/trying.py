"""Attempts until one succeeds: numbering, waiting between them, and the bill of them all."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.costs.account import Act
from maestro_dagster.costs.budget import BudgetTree, RunBudget, StepBudget, work_id
from maestro_dagster.costs.event import DEFAULT_RETENTION_TIER, UsageScope, format_time, price_attempt
from maestro_dagster.costs.interface import UsageEvent, UsageWriter
from maestro_dagster.costs.ledger import SpoolLedger
from maestro_dagster.costs.tier import Limit
from maestro_dagster.engine import writing
from maestro_dagster.engine.attempt import Assignment, Attempt, Trial
from maestro_dagster.engine.estimate import forecast_work
from maestro_dagster.engine.log import RunLog
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import Bill
from maestro_dagster.engine.thrift import ThriftyHub
from maestro_dagster.engine.trace import (
    attempt_options,
    begin_run,
    begin_segment,
    note_trial,
    open_trace,
    step_title,
)
from maestro_dagster.engine.traced import CallCount
from maestro_dagster.engine.writer import Delivery, Work
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.model import Budget, Flow
from maestro_dagster.manifest.money import parse_usd
from maestro_dagster.telemetry.name import STEP_SPAN
from maestro_dagster.telemetry.span import Span, current_span, name_error, run_span_id


class Submit(Protocol):
    def __call__(self, work: Work[Any], deliveries: Sequence[Delivery] = ()) -> asyncio.Future[Any]: ...


@dataclass(frozen=True, slots=True)
class Effort:
    """The last attempt of a step. `deliveries` is its usage, durable before the step is acknowledged."""

    trial: Trial
    number: int
    deliveries: tuple[Delivery, ...] = ()
    preview: str = ""


class Trier:
    """Tries the steps of one run in this process. Use it as a context manager."""

    def __init__(
        self,
        services: Services,
        run: RunRow,
        flow: Flow,
        owner: str,
        submit: Submit,
        cancelling: Callable[[], bool],
        chance: Callable[[], float],
    ) -> None:
        self.owner = owner
        self._services = services
        self._run = run
        self._submit = submit
        self._cancelling = cancelling
        self._chance = chance
        self._spent: dict[str, list[UsageEvent]] = defaultdict(list)
        self._writer: UsageWriter | None = None
        self._budget = open_budget(services.budgets, run, flow, owner)
        self._acts: dict[str, list[str]] = defaultdict(list)
        self._calls: dict[str, dict[tuple[str, str], CallCount]] = defaultdict(dict)
        self.trace = open_trace(services, run.run_id)
        self.parent: Span | str = run_span_id(run.run_id)  # of the attempts' spans: the segment's, once open
        self._one_at_a_time = asyncio.Lock()
        self._retention_tier = (
            "legal-hold" if flow.legal_hold else flow.retention_tier or DEFAULT_RETENTION_TIER
        )
        self._subject = services.subject_of(run.actor) if run.actor else ""
        limits = services.limits
        self.log = RunLog(
            services.log_folder,
            run.run_id,
            line_limit=limits.log_line,
            file_limit=limits.log_file,
            redactor=services.redactor,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()
        self.trace.close()
        if self._writer is not None:
            self._writer.close()

    @contextmanager
    def open_segment(self, steps: Iterable[str]) -> Iterator[None]:
        """Around all that this process does for the run: its span is the parent of the attempts'."""
        begin_run(self.trace, self._run)
        span = self.parent = begin_segment(self.trace, self._run, self.owner, steps)
        try:
            yield
        except BaseException as error:
            span.fail(name_error(error), str(error))
            raise
        finally:
            self.trace.end(span)

    def recall(self) -> None:
        """Takes over what earlier processes spent on this run: it counts in bills and budgets."""
        events = self._services.spool.read_run(self._run.run_id)
        for event in events:
            self._spent[event.step].append(event)
        self._budget.reconcile(events, live=self._services.journal.live_owners(self._run.run_id))

    def bill(self, step: str) -> Bill:
        """All that a step has used so far: every attempt and iteration, those that died too."""
        return bill_events(self._spent.get(step, ()))

    async def persist(self, assignment: Assignment, row: StepRow, number: int) -> Effort:
        """Tries until done, failed for good, or cancelled. Attempt `number` has begun already."""
        failures = 0
        if number > 1:
            failures = self._services.journal.attempts(self._run.run_id, row.step, row.iteration)[1]
        while True:
            effort = await self._try_once(assignment, number)
            trial = effort.trial
            again = trial.retryable and failures < assignment.task.retries and not self._cancelling()
            if not again or trial.error is None:
                return effort
            failures += 1
            error = trial.error.to_json()
            try:
                number = await self._begin_again(row, number, error, effort.deliveries, failures)
            except asyncio.CancelledError:
                if not self._cancelling():
                    raise
                return replace(effort, trial=replace(trial, cancelled=True, error=None), deliveries=())

    async def _begin_again(
        self,
        row: StepRow,
        number: int,
        error: dict[str, str],
        deliveries: Sequence[Delivery],
        failures: int,
    ) -> int:
        run_id, limits = self._run.run_id, self._services.limits
        await self._submit(
            lambda c: writing.end_attempt(c, run_id, row, number, "failed", error, time.time()), deliveries
        )
        # Full jitter: many runs that failed together do not come back together.
        delay = min(limits.backoff_most, limits.backoff_first * 2 ** (failures - 1)) * self._chance()
        self.log.write(
            f"attempt {number} failed, the next one begins in {delay:.1f} s",
            step=row.step,
            iteration=row.iteration,
            attempt=number,
        )
        await asyncio.sleep(delay)
        begun: int = await self._submit(
            lambda c: writing.begin_attempt(c, run_id, row, self.owner, time.time())
        )
        return begun

    async def _try_once(self, assignment: Assignment, number: int) -> Effort:
        with self.open_span(assignment, number) as span:
            effort = await self._try_within_budget(assignment, number)
            note_trial(span, effort.trial)
            return effort

    @contextmanager
    def open_span(self, assignment: Assignment, number: int) -> Iterator[Span]:
        """Around one attempt: its calls to the outside are below it, a map's iterations below the map's."""
        parent = current_span() if assignment.iteration >= 0 else None
        options = attempt_options(self._run, assignment, number, parent or self.parent)
        title = step_title(assignment.task.id, assignment.iteration)
        with self.trace.span(title, STEP_SPAN, **options) as span:
            yield span

    async def _try_within_budget(self, assignment: Assignment, number: int) -> Effort:
        task = assignment.task
        budget = self._budget.open_step(task.id, self._tell)
        work = work_id(self._run.run_id, task.id, assignment.iteration, number)
        began = time.time()
        try:
            await self._reserve(budget, work, assignment, began)
        except CostError as error:
            self.log.write(str(error), step=task.id, iteration=assignment.iteration, attempt=number)
            return Effort(Trial(began, error=error), number)
        if "slow" not in budget.actions:
            return await self._spend(assignment, number, budget, work, began)
        async with self._one_at_a_time:
            await asyncio.sleep(self._budget.thrift(format_time(began)).delay)
            return await self._spend(assignment, number, budget, work, began)

    async def _spend(
        self, assignment: Assignment, number: int, budget: StepBudget, work: str, began: float
    ) -> Effort:
        """The attempt and its bill. Usage belongs to the day on which it was reserved."""
        task = assignment.task
        scope = self._usage_scope(task.id, assignment.iteration, number)
        ledger = SpoolLedger(self._open_spool(), scope, budget, self._services.redactor.hide)
        attempt = Attempt(
            self._thrifty(budget, began, scope),
            self._run,
            assignment,
            number,
            ledger,
            self.log,
            partial(self._note_call, task.id),
        )
        trial = await attempt.run(self._cancelling)
        events = price_attempt(
            self._services.rates,
            scope,
            started_at=began if budget.held else trial.started_at,
            cpu_ms=trial.cpu_ms,
            memory_kb_ms=trial.memory_kb_ms,
            wall_ms=trial.wall_ms,
            bytes_in=trial.bytes_in,
            bytes_out=trial.bytes_out,
            bytes_stored=self._stored_size(assignment, trial.artifact),
            outcome="cancelled" if trial.cancelled else "failed" if trial.error else "ok",
        )
        if budget.held:
            nano = sum(event.cost_nano or 0 for event in events)
            unknown = sum(event.cost_nano is None for event in events)
            await asyncio.to_thread(budget.settle, work, nano, 0, unknown=unknown)
        self._spent[task.id] += [*ledger.settled, *ledger.unsettled, *events]
        preview = attempt.preview(trial.result.preview) if trial.result else ""
        return Effort(trial, number, (Delivery(self._open_spool().append, events),), preview)

    async def _reserve(self, budget: StepBudget, work: str, assignment: Assignment, began: float) -> None:
        """Takes what the attempt is estimated to use apart from model calls. Raises CostError."""
        when = format_time(began)
        if self._budget.accounts(when, assignment.task.id):
            nano = forecast_work(self._services, assignment.kind, assignment.prepared.config, when)
            await asyncio.to_thread(budget.reserve, work, nano, 0, when)

    def _thrifty(self, budget: StepBudget, began: float, scope: UsageScope) -> Services:
        """The services of an attempt: under a budget, models are used as its state allows."""
        if not budget.held:
            return self._services

        def say(message: str) -> None:
            self.log.write(message, step=scope.step, iteration=scope.iteration, attempt=scope.attempt)

        thrift = self._budget.thrift(format_time(began))
        hub = ThriftyHub(self._services.hub, thrift, lambda: budget.actions, say)
        return replace(self._services, hub=hub)

    def acts(self, step: str) -> list[str]:
        """Thresholds of budgets that were reached while the step ran, each once."""
        return self._acts[step]

    def calls(self, step: str) -> list[dict[str, Any]]:
        """How many calls the step's attempts in this process made of which model, for the metrics."""
        return [
            {"provider": provider, "model": model, **count.to_json()}
            for (provider, model), count in sorted(self._calls[step].items())
        ]

    def _note_call(self, step: str, provider: str, model: str, milliseconds: float, failure: str) -> None:
        hide = self._services.redactor.hide  # the names become labels of metrics
        named = hide(provider), hide(model)
        self._calls[step].setdefault(named, CallCount()).add(milliseconds, failure)

    def _tell(self, step: str, act: Act) -> None:
        text = act.to_text()
        self._acts[step].append(text)
        self.log.write(text, step=step)

    def _usage_scope(self, step: str, iteration: int, number: int) -> UsageScope:
        services = self._services
        return UsageScope(
            tenant=services.tenant,
            run_id=self._run.run_id,
            flow=self._run.flow,
            step=step,
            attempt=number,
            env=services.env,
            iteration=iteration,
            project=services.project_name,
            retention_tier=self._retention_tier,
            subject=self._subject,
        )

    def _stored_size(self, assignment: Assignment, artifact: Artifact | None) -> int:
        """Bytes that the artifact added: none when it is an input passed on."""
        if artifact is None or artifact in assignment.prepared.inputs.values():
            return 0
        if artifact.media_type != TREE_MEDIA_TYPE:
            return artifact.size
        entries = self._services.store.read_tree(artifact.digest)
        return artifact.size + sum(entry.size for entry in entries)

    def _open_spool(self) -> UsageWriter:
        if self._writer is None:
            self._writer = self._services.spool.open_run(self._run.run_id)
        return self._writer


def open_budget(budgets: BudgetTree, run: RunRow, flow: Flow, owner: str = "") -> RunBudget:
    """The run in the tree of budgets, with what the flow, its steps and the request allow."""
    own = [Limit(hard_nano=run.budget_nano)] if run.budget_nano is not None else []
    if flow.budget is not None:
        own.append(read_limit(flow.budget))
    steps = {task.id: read_limit(task.budget) for task in flow.tasks if task.budget is not None}
    return budgets.open_run(run.flow, run.run_id, own, steps, owner)


def read_limit(budget: Budget) -> Limit:
    return Limit(hard_nano=None if budget.usd is None else parse_usd(budget.usd), tokens=budget.tokens)


def bill_events(events: Iterable[UsageEvent]) -> Bill:
    """The sum; unknown as soon as one price is. An intent that was never settled counts at its reserve."""
    nano: int | None = 0
    tokens = 0
    for event in events:
        nano = None if nano is None or event.cost_nano is None else nano + event.cost_nano
        tokens += event.tokens_in + event.tokens_out
    return Bill(nano, tokens)
