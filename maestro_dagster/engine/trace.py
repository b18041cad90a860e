"""What the engine tells of a run in spans: the run, its admission, its segments, every attempt of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from maestro_dagster.engine.attempt import Assignment, Trial
from maestro_dagster.engine.row import RunRow
from maestro_dagster.engine.services import Services
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.redaction import Redactor
from maestro_dagster.telemetry.span import (
    CONSUMER,
    INTERNAL,
    SERVER,
    Span,
    Trace,
    push_span_id,
    run_span_id,
    span_id_for,
    trace_id_for,
)

RESULTS = {
    "succeeded": "success",
    "failed": "failure",
    "cancelled": "cancellation",
    "denied": "skip",
    "done": "success",
    "reused": "success",
    "skipped": "skip",
}


def open_trace(services: Services, run_id: str) -> Trace:
    resource = {
        name.SERVICE_NAME: name.SERVICE,
        name.SERVICE_VERSION: _version(),
        name.SERVICE_NAMESPACE: services.tenant,
        name.ENVIRONMENT: services.env,
    }
    return Trace(trace_folder(services), run_id, redactor=services.redactor, resource=resource)


def trace_folder(services: Services) -> Path:
    return services.log_folder.parent / "traces"


def begin_run(trace: Trace, run: RunRow) -> Span:
    """The run's own span, which every process that works on the run begins anew: it is one all the same."""
    return trace.begin(
        f"run {run.flow}",
        name.RUN_SPAN,
        span_id=run_span_id(run.run_id),
        parent=push_span_id(run.run_id) if "event_id" in run.git else None,
        kind=SERVER,
        start=run.requested_at,
        attributes=_describe_run(run),
        links=((trace_id_for(run.reuse_from), run_span_id(run.reuse_from)),) if run.reuse_from else (),
    )


def record_push(
    folder: Path, run_id: str, received_at: float, attributes: Mapping[str, Any], *, redactor: Redactor
) -> None:
    """The span of the event that a run was asked for, up to the request. `received_at`: seconds."""
    trace = Trace(folder, run_id, redactor=redactor, resource={name.SERVICE_NAME: name.SERVICE})
    known = {name.SPAN_KIND: name.PUSH_SPAN, name.PIPELINE_RUN_ID: run_id, **attributes}
    start, now = round(received_at * 1e9), time.time_ns()
    span = Span(trace.trace_id, push_span_id(run_id), "", "push", CONSUMER, start, known, end=max(start, now))
    trace.write(span)
    trace.close()


def record_admission(services: Services, run_id: str, decision: Mapping[str, Any], start: int) -> None:
    """The span of a decision that has just been kept; it began at `start` (nanoseconds).

    Of whoever's decision the journal kept, and of nobody who asks again: a run is admitted once.
    """
    trace = open_trace(services, run_id)
    trace.write(admission_span(trace, decision, start, time.time_ns()))
    trace.close()


def admission_span(trace: Trace, decision: Mapping[str, Any], start: int, end: int) -> Span:
    """A denial is an error: of the run, which it ends, not of those who decided."""
    verdicts = decision.get("verdicts", ())
    violations = [each for verdict in verdicts for each in verdict.get("violations", ())]
    allowed = bool(decision.get("allow"))
    span = Span(
        trace.trace_id,
        span_id_for(trace.run_id, name.ADMISSION_SPAN),
        run_span_id(trace.run_id),
        "admission",
        INTERNAL,
        start,
        {
            name.SPAN_KIND: name.ADMISSION_SPAN,
            name.PIPELINE_RUN_ID: trace.run_id,
            name.POLICY_DECISION: "allow" if allowed else "deny",
            name.POLICY_PACKS: [f"{verdict.get('pack')}@{verdict.get('digest')}" for verdict in verdicts],
            name.POLICY_RULES: sorted({str(each.get("rule")) for each in violations}) or None,
            name.POLICY_ENGINE: decision.get("engine"),
            name.POLICY_INPUT: decision.get("input_digest"),
        },
        end=max(start, end),
    )
    if not allowed:
        span.fail("denied", violations[0].get("message", "") if violations else "no pack allowed it")
    return span


def begin_segment(trace: Trace, run: RunRow, owner: str, steps: Iterable[str]) -> Span:
    dagster_run = run.dagster_runs[-1] if run.dagster_runs else None
    return trace.begin(
        "segment",
        name.SEGMENT_SPAN,
        parent=run_span_id(run.run_id),
        span_id=span_id_for(run.run_id, name.SEGMENT_SPAN, owner),
        attributes={
            name.WORKER_ID: owner,
            name.DAGSTER_RUN: dagster_run,
            name.SEGMENT_STEPS: sorted(steps),
        },
    )


def attempt_options(run: RunRow, assignment: Assignment, number: int, parent: Span | str) -> dict[str, Any]:
    """What `Trace.span` takes for one attempt of a step, or of one iteration."""
    task = assignment.task
    return {
        "parent": parent,
        "span_id": span_id_for(run.run_id, name.STEP_SPAN, task.id, assignment.iteration, number),
        "attributes": describe_step(task.id, assignment.uses, assignment.iteration, number, run.flow),
    }


def step_title(step: str, iteration: int) -> str:
    return f"step {step}" if iteration < 0 else f"step {step}[{iteration}]"


def note_trial(span: Span, trial: Trial) -> None:
    """How the attempt ended."""
    status = "cancelled" if trial.cancelled else "failed" if trial.error else "done"
    span.attributes |= {
        name.STEP_STATUS: status,
        name.TASK_RESULT: RESULTS[status],
        name.ISOLATION: trial.isolation,
    }
    if trial.error is not None:
        span.fail(trial.error.error_code, trial.error.fact)


def _describe_run(run: RunRow) -> dict[str, Any]:
    git = run.git
    return {
        name.PIPELINE_NAME: run.flow,
        name.FLOW_VERSION: run.flow_version,
        name.FLOW_DIGEST: run.flow_digest,
        name.RUN_CAUSE: run.cause,
        name.REPOSITORY: git.get("repository"),
        name.REF_NAME: git.get("ref"),
        name.REVISION: git.get("sha"),
        name.EVENT_ID: git.get("event_id"),
    }


def describe_step(step: str, uses: str, iteration: int, number: int, flow: str) -> dict[str, Any]:
    return {
        name.PIPELINE_NAME: flow,
        name.TASK_NAME: step,
        name.STEP_USES: uses,
        name.STEP_ITERATION: iteration,
        name.STEP_ATTEMPT: number,
    }


@lru_cache(maxsize=1)
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("maestro-dagster")
    except PackageNotFoundError:
        return "0"
