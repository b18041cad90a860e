"""The body of an op: runs its steps through the engine and tells Dagster of each as it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import dagster as dg
from dagster._core.execution.context.data_version_cache import InputAssetVersionInfo

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.engine.interface import StepOutcome
from maestro_dagster.engine.stop import hide_error
from maestro_dagster.errors import DeniedError, MaestroError, StoreError
from maestro_dagster.translate.adoption import adopt_run
from maestro_dagster.translate.check import gate_checked
from maestro_dagster.translate.closing import CLOSED, close_run, is_finished
from maestro_dagster.translate.event import RUN_TAG, Checked, Made, RunCosts, artifact_made
from maestro_dagster.translate.lease import hold_lease, holds_lease
from maestro_dagster.translate.plan import FlowPlan, Op
from maestro_dagster.translate.python_asset import read_pointer
from maestro_dagster.translate.runtime import Runtime, RuntimeSource
from maestro_dagster.translate.translator import FlowTranslator

LOG_LIMIT = 16 * 1024  # characters of a step's log lines in one event of the event log


def run_op(
    context: dg.AssetExecutionContext,
    plan: FlowPlan,
    op: Op,
    translator: FlowTranslator,
    source: RuntimeSource,
) -> Iterator[Any]:
    """Yields materialisations and check results; raises dg.Failure at the end when a step failed."""
    runtime = source()
    with ExitStack() as held:
        run_id = context.run.tags.get(RUN_TAG)
        if run_id is None:
            run_id = adopt_run(context, plan, runtime)
        if not holds_lease(run_id):  # a stock launcher started this process, not the loop
            held.enter_context(hold_lease(runtime.engine, run_id))
        try:
            yield from _run_steps(context, plan, op, translator, runtime, run_id)
        except MaestroError as error:
            hide_error(error, runtime.engine.services.redactor)
            raise _failure(error.to_json()) from error


def _run_steps(
    context: dg.AssetExecutionContext,
    plan: FlowPlan,
    op: Op,
    translator: FlowTranslator,
    runtime: Runtime,
    run_id: str,
) -> Iterator[Any]:
    engine = runtime.engine
    decision = engine.admit(run_id)
    failed: list[StepOutcome] = []
    if decision.allow:
        assets = _python_assets(plan, op, runtime, partition_of(context))
        before = () if len(op.steps) == len(plan.flow.tasks) else engine.view(run_id).steps
        costs = RunCosts(plan.flow, before)
        for outcome in engine.stream_segment(run_id, op.steps, assets=assets):
            costs.add(outcome)
            _log_lines(context, runtime, translator, run_id, outcome)
            yield from _selected(context, step_events(plan, runtime, translator, run_id, outcome, costs))
            if outcome.status == "failed":
                failed.append(outcome)
    view = engine.view(run_id)
    if view.status in CLOSED or is_finished(view):
        yield from _closing_events(context, plan, runtime, translator, run_id)
        view = engine.view(run_id)
    if not decision.allow:
        raise _failure(denial(run_id, [each.to_json() for each in decision.violations]).to_json())
    if any(step.status == "cancelled" for step in view.steps):
        # Dagster calls a run cancelled only when somebody said beforehand that it would be.
        context.instance.report_run_canceling(context.run, "The Maestro run was cancelled.")
        raise dg.Failure("the run was cancelled", metadata={RUN_TAG: run_id}, allow_retries=False)
    if not failed and view.status == "failed":
        failed = [step for step in view.steps if step.status == "failed"]
    if failed:
        raise _failure(failed[0].error or {}, step=failed[0].step, others=[each.step for each in failed[1:]])


def _python_assets(plan: FlowPlan, op: Op, runtime: Runtime, partition: str | None) -> dict[str, Artifact]:
    """The newest values of the Python assets that the op's steps name; the engine says which is missing."""
    found: dict[str, Artifact] = {}
    for task in plan.flow.tasks:
        if not task.assets or task.id not in op.steps:
            continue
        for key in task.assets.values():
            with suppress(StoreError):
                found[key] = read_pointer(runtime.home, key, partition)
    return found


def step_events(
    plan: FlowPlan,
    runtime: Runtime,
    translator: FlowTranslator,
    run_id: str,
    outcome: StepOutcome,
    costs: RunCosts,
) -> Iterator[Made | Checked]:
    key = plan.keys.get(outcome.step)
    if key is None:
        return
    if outcome.artifact is not None and outcome.status in {"done", "reused"}:
        evidence = runtime.engine.services.evidence.place(run_id)
        limit = translator.settings.preview_limit
        yield artifact_made(outcome, key, run_id, evidence, limit, costs.describe(outcome.step))
    if translator.settings.enable_checks and (checked := gate_checked(outcome, key)):
        yield checked


def _closing_events(
    context: dg.AssetExecutionContext,
    plan: FlowPlan,
    runtime: Runtime,
    translator: FlowTranslator,
    run_id: str,
) -> Iterator[Any]:
    """Evidence that this Dagster run was not asked for is recorded too, beside the run."""
    events = list(close_run(runtime, plan, run_id, translator.settings))
    if plan.evidence_key in context.selected_asset_keys:
        yield from _selected(context, iter(events))
    else:
        report_events(context.instance, events, partition_of(context))


def report_events(
    instance: dg.DagsterInstance, events: Sequence[Made | Checked], partition: str | None
) -> None:
    """Records events without a Dagster run."""
    for event in events:
        if isinstance(event, Made):
            instance.report_runless_asset_event(event.to_event(partition))
        else:
            instance.report_runless_asset_event(event.to_event())


def partition_of(context: dg.AssetExecutionContext) -> str | None:
    return context.partition_key if context.has_partition_key else None


def _selected(context: dg.AssetExecutionContext, events: Iterator[Made | Checked]) -> Iterator[Any]:
    """Only what this Dagster run was asked for: the rest is recorded already, or not wanted."""
    checks = context.selected_asset_check_keys
    partition = partition_of(context)
    for event in events:
        if isinstance(event, Made):
            if event.key in context.selected_asset_keys:
                context.add_asset_metadata(event.metadata, asset_key=event.key, partition_key=partition)
                yield event.to_result()
                note_provenance(context, event)
        elif dg.AssetCheckKey(event.key, event.name) in checks:
            yield event.to_result()


def note_provenance(context: dg.AssetExecutionContext, made: Made) -> None:
    """Tells Dagster which event the assets behind this one come from.

    Else it asks the event log for the newest materialisation, which costs a fifth of the run and may
    be that of another branch. Needs a storage that knows what it stored; others are left to ask.
    """
    stored_event = getattr(context.instance.event_log_storage, "stored_event", None)
    step_context = context.op_execution_context.get_step_execution_context()
    cache = getattr(step_context, "_data_version_cache", None)
    if stored_event is None or cache is None:
        return
    if found := stored_event(context.run.run_id, made.key):
        cache.input_asset_version_info[made.key] = InputAssetVersionInfo(
            storage_id=found[0],
            event_type=dg.DagsterEventType.ASSET_MATERIALIZATION,
            data_version=dg.DataVersion(made.digest),
            run_id=context.run.run_id,
            timestamp=found[1],
        )


def _log_lines(
    context: dg.AssetExecutionContext,
    runtime: Runtime,
    translator: FlowTranslator,
    run_id: str,
    outcome: StepOutcome,
) -> None:
    """The step's lines as one event: each event costs a transaction."""
    if not translator.settings.enable_logs or not outcome.fresh:
        return
    lines = [str(line["line"]) for line in runtime.engine.logs(run_id, outcome.step)]
    if lines:
        text = "\n".join(lines)
        shown = text if len(text) <= LOG_LIMIT else f"{text[:LOG_LIMIT]}\n… see `maestro logs {run_id}`"
        context.log.info("%s:\n%s", outcome.step, shown)


def denial(run_id: str, violations: list[dict[str, str]]) -> DeniedError:
    """The error of a denied run: the first rule that was broken, and how many more there are."""
    first = violations[0] if violations else {}
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return DeniedError(
        f"denied by {first.get('pack', 'policy')}: {first.get('message', 'no verdict allows it')}{more}",
        place=f"run {run_id}" + (f", step {first['step']}" if first.get("step") else ""),
        remedy=first.get("remedy", "see `maestro policy eval`"),
    )


def _failure(error: Mapping[str, str], step: str = "", others: list[str] | None = None) -> dg.Failure:
    """An engine's error as Dagster shows it: fact as the description, the rest as metadata."""
    fact = error.get("fact") or "the step failed"
    metadata: dict[str, Any] = {
        "fact": fact,
        "place": error.get("place", ""),
        "remedy": error.get("remedy", ""),
        "code": error.get("code", ""),
    }
    if step:
        metadata["step"] = step
    if others:
        metadata["failed too"] = ", ".join(others)
    return dg.Failure(f"{step}: {fact}" if step else fact, metadata=metadata, allow_retries=False)
