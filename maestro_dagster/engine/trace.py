"""What the engine tells of a run in spans: the run, its segments, every attempt of every step, the end."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from maestro_dagster.engine.attempt import Assignment, Trial
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.services import Services
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.redaction import Redactor
from maestro_dagster.telemetry.span import (
    CONSUMER,
    SERVER,
    Span,
    Trace,
    open_path,
    push_span_id,
    run_span_id,
    span_id_for,
    trace_id_for,
)
from maestro_dagster.telemetry.trace import TraceSpan, parse_request, read_ended, read_open, write_document

_RESULTS = {
    "succeeded": "success",
    "failed": "failure",
    "cancelled": "cancellation",
    "denied": "skip",
    "done": "success",
    "reused": "success",
    "skipped": "skip",
}
LOST = "process-lost"  # a span whose process ended before it did


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
        "attributes": _describe_step(task.id, assignment.uses, assignment.iteration, number, run.flow),
    }


def step_title(step: str, iteration: int) -> str:
    return f"step {step}" if iteration < 0 else f"step {step}[{iteration}]"


def note_trial(span: Span, trial: Trial) -> None:
    """How the attempt ended."""
    status = "cancelled" if trial.cancelled else "failed" if trial.error else "done"
    span.attributes |= {
        name.STEP_STATUS: status,
        name.TASK_RESULT: _RESULTS[status],
        name.ISOLATION: trial.isolation,
    }
    if trial.error is not None:
        span.fail(trial.error.error_code, trial.error.fact)


def finish_trace(
    services: Services, run: RunRow, rows: Iterable[StepRow], *, error: Mapping[str, str] | None = None
) -> bytes:
    """Ends every span of an ended run, adds those of steps that nobody tried, and gives the whole trace.

    `run` has its final status and time, `rows` are all of its steps, iterations too.
    """
    folder = trace_folder(services)
    ended = {span.span_id: span for span in read_ended(folder, run.run_id)}
    left = [span for span in read_open(folder, run.run_id) if span.span_id not in ended]
    trace = open_trace(services, run.run_id)
    try:
        root = begin_run(trace, run)
        lines = [_end_lost(trace, span, ended.values()) for span in left if span.span_id != root.span_id]
        lines += map(trace.write, _missing(trace, run, rows, [*ended.values(), *left]))
        root.attributes |= {
            name.RUN_STATUS: run.status,
            name.PIPELINE_RESULT: _RESULTS[run.status],
            name.DAGSTER_RUN: list(run.dagster_runs) or None,
        }
        if run.status in {"failed", "denied"}:
            root.fail((error or {}).get("code", run.status), (error or {}).get("fact", ""))
        lines.append(trace.end(root, end=run.finished_at))
    finally:
        trace.close()
    with contextlib.suppress(OSError):
        open_path(folder, run.run_id).unlink()
    # Not from the file: a disk that is full must not make the trace of the evidence smaller.
    for line in lines:
        ended.update({span.span_id: span for span in parse_request(json.loads(line))})
    return write_document(ended.values())


def pack_trace(document: bytes) -> str:
    """For the journal's record of the run, out of which the bundle can be made again."""
    return base64.b64encode(zlib.compress(document, 9)).decode()


def unpack_trace(packed: str | None) -> bytes | None:
    """None for a run that ended before there were traces."""
    return None if packed is None else zlib.decompress(base64.b64decode(packed))


def _end_lost(trace: Trace, span: TraceSpan, ended: Iterable[TraceSpan]) -> str:
    """Its process died. It ended at the last sign of life below it, as far as anybody knows."""
    end = max((each.end for each in ended if each.parent_id == span.span_id), default=span.start)
    lost = Span(
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.kind,
        span.start,
        {**span.attributes, name.RECOVERED: True},
        end=max(end, span.start),
    )
    lost.fail(LOST, "the process ended before this did")
    return trace.write(lost)


def _missing(
    trace: Trace, run: RunRow, rows: Iterable[StepRow], known: Iterable[TraceSpan]
) -> Iterator[Span]:
    """Steps that ended without an attempt, and attempts whose spans a full or torn disk swallowed."""
    told = {
        (span.step, span.attributes.get(name.STEP_ITERATION, -1), span.attributes.get(name.STEP_ATTEMPT))
        for span in known
        if span.what == name.STEP_SPAN
    }
    for row in rows:
        for number in range(1, row.attempts + 1) if row.attempts else (0,):
            if (row.step, row.iteration, number) not in told:
                yield _span_of_row(trace, run, row, number)


def _span_of_row(trace: Trace, run: RunRow, row: StepRow, number: int) -> Span:
    end = row.finished_at or run.finished_at or time.time()
    start = row.started_at or end
    attributes = {
        name.SPAN_KIND: name.STEP_SPAN,
        name.PIPELINE_RUN_ID: run.run_id,
        **_describe_step(row.step, row.uses, row.iteration, number, run.flow),
        name.STEP_STATUS: row.status,
        name.TASK_RESULT: _RESULTS.get(row.status),
        name.STEP_REASON: row.reason,
        name.COST_USD: None if row.cost_nano is None else format_nano(row.cost_nano),
    }
    span = Span(
        trace.trace_id,
        span_id_for(run.run_id, name.STEP_SPAN, row.step, row.iteration, number),
        run_span_id(run.run_id),
        step_title(row.step, row.iteration),
        1,
        round(start * 1e9),
        attributes,
        end=round(max(start, end) * 1e9),
    )
    if row.error is not None:
        span.fail(row.error.get("code", "step"), row.error.get("fact", ""))
    return span


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


def _describe_step(step: str, uses: str, iteration: int, number: int, flow: str) -> dict[str, Any]:
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
