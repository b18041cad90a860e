"""Runs one Maestro run to its end in this process: admission, Dagster runs, evidence.

A Maestro run has one Dagster run or more. The first is the whole job. Another follows for whatever is
left: after this process or an earlier one died, and where Dagster skipped a segment that could still
run. Each selects only what is not yet recorded, so that every artifact is recorded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from maestro_dagster.engine.disk import find_full_disk
from maestro_dagster.engine.interface import RunView
from maestro_dagster.engine.stop import hide_error, note_stop
from maestro_dagster.errors import EvidenceError, MaestroError, StoreError
from maestro_dagster.translate.closing import CLOSED, ENDED, close_run
from maestro_dagster.translate.event import Made, RunCosts
from maestro_dagster.translate.execution import report_events, step_events
from maestro_dagster.translate.lease import hold_lease
from maestro_dagster.translate.plan import FlowPlan, plan_flow
from maestro_dagster.translate.translator import FlowTranslator
from maestro_dagster.workers.dagster_run import (
    build_job,
    execute_in_dagster,
    fail_dead_runs,
    materialised,
    partition_key,
    still_wanted,
)
from maestro_dagster.workers.failure import find_cause
from maestro_dagster.workers.instance import open_instance

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import Runtime

_NO_STOP = frozenset({"run-busy", "run-unknown"})  # somebody else's run, or nobody's


def execute_run(
    runtime: Runtime, run_id: str, *, translator: FlowTranslator | None = None, owner: str | None = None
) -> RunView:
    """Runs a requested run, or what is left of one that was begun, and gives how it ended.

    Raises KeyMissingError (nothing to sign with), JournalError (`run-unknown`, `run-busy`), what stopped it
    (StoreError, EvidenceError), and MaestroError `dagster-run` when Dagster itself failed; the run then stays
    open and can be retried.
    """
    try:
        return _execute(runtime, run_id, translator or FlowTranslator(), owner)
    except Exception as error:
        told = find_full_disk(error, runtime.home) or error
        if isinstance(told, MaestroError) and told.error_code not in _NO_STOP:
            _note(runtime, run_id, told)
        if told is error:
            raise
        raise told from error


def _note(runtime: Runtime, run_id: str, error: MaestroError) -> None:
    """The run stays open: its log says why, and the error how it goes on."""
    if isinstance(error, StoreError | EvidenceError) or type(error) is MaestroError:  # the last: from Dagster
        retry = f"`maestro retry {run_id}`"
        if "maestro retry" not in error.remedy:
            error.remedy = f"{error.remedy}; then {retry}" if error.remedy else retry
    hide_error(error, runtime.engine.services.redactor)
    note_stop(runtime.engine.services, run_id, error)


def _execute(runtime: Runtime, run_id: str, translator: FlowTranslator, owner: str | None) -> RunView:
    engine = runtime.engine
    with hold_lease(engine, run_id, owner, whole=True):
        decision = engine.admit(run_id)
        view = engine.view(run_id)
        plan = plan_flow(engine.flow(run_id), translator)
        with open_instance(runtime.home, runtime.database) as instance:
            fail_dead_runs(instance, run_id, "The process of this run died; another Dagster run goes on.")
            if decision.allow and view.status not in CLOSED:
                _run_to_end(runtime, instance, plan, run_id, translator)
            return close_and_record(runtime, instance, plan, run_id, translator)


def _run_to_end(
    runtime: Runtime,
    instance: dg.DagsterInstance,
    plan: FlowPlan,
    run_id: str,
    translator: FlowTranslator,
) -> None:
    """Dagster runs until every step has ended and every artifact is recorded."""
    job = build_job(plan, translator, runtime)
    before: tuple[int, int] | None = None
    last: str | None = None  # the newest Dagster run
    while True:
        view = runtime.engine.view(run_id)
        recorded = materialised(instance, run_id, plan, partition_key(plan, view))
        wanted = still_wanted(plan, view, recorded)
        open_steps = [step.step for step in view.steps if step.status not in ENDED]
        if view.status in CLOSED or not (open_steps or wanted) or runtime.engine.is_cancelled(run_id):
            return
        progress = (len(open_steps), len(wanted))
        if progress == before:
            raise (last and find_cause(instance, last)) or MaestroError(
                f"Dagster ended the run with {len(open_steps)} steps and {len(wanted)} assets open",
                place=f"run {run_id}",
                remedy="see the run's events in the Dagster UI",
                code="dagster-run",
            )
        before = progress
        everything = not recorded and not any(step.status in ENDED for step in view.steps)
        last = execute_in_dagster(instance, job, plan, view, None if everything else wanted, runtime).run_id


def close_and_record(
    runtime: Runtime,
    instance: dg.DagsterInstance,
    plan: FlowPlan,
    run_id: str,
    translator: FlowTranslator,
) -> RunView:
    """Closes the run and records, without a Dagster run, what none has recorded."""
    engine = runtime.engine
    bundle = engine.close(run_id)
    view = engine.view(run_id)
    partition = partition_key(plan, view)
    recorded = materialised(instance, run_id, plan, partition)
    if partition is not None:
        instance.add_dynamic_partitions(plan.partitions_name, [partition])
    if plan.evidence_key not in recorded:
        report_events(instance, list(close_run(runtime, plan, run_id, translator.settings)), partition)
    costs = RunCosts(plan.flow, view.steps)
    left = [
        event
        for step in view.steps
        for event in step_events(plan, runtime, translator, run_id, step, costs)
        if isinstance(event, Made) and event.key not in recorded
    ]
    report_events(instance, left, partition)
    del bundle
    return view


def close_dead_run(runtime: Runtime, run_id: str, *, translator: FlowTranslator | None = None) -> RunView:
    """Gives up on a run whose processes keep dying: it is closed with a receipt that says so."""
    engine = runtime.engine
    with hold_lease(engine, run_id, whole=True):
        plan = plan_flow(engine.flow(run_id), translator or FlowTranslator())
        with open_instance(runtime.home, runtime.database) as instance:
            fail_dead_runs(instance, run_id, "The process of this run died too often; the run is closed.")
            return close_and_record(runtime, instance, plan, run_id, translator or FlowTranslator())
