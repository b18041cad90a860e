"""The end of a run's trace: what is missing is added, what went on is ended, the whole is written down."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping

from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.trace import (
    RESULTS,
    admission_span,
    begin_run,
    describe_step,
    open_trace,
    step_title,
    trace_folder,
)
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import Span, Trace, open_path, run_span_id, span_id_for
from maestro_dagster.telemetry.trace import TraceSpan, parse_request, read_ended, read_open, write_document

LOST = "process-lost"  # a span whose process ended before it did


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
        told = [*ended.values(), *left]
        lines += map(trace.write, _missing_admission(trace, run, told))
        lines += map(trace.write, _missing(trace, run, rows, told))
        root.attributes |= {
            name.RUN_STATUS: run.status,
            name.PIPELINE_RESULT: RESULTS[run.status],
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


def _missing_admission(trace: Trace, run: RunRow, known: Iterable[TraceSpan]) -> Iterator[Span]:
    """That of a decision that was kept, whose span a full disk or a killed process swallowed.

    How long it took nobody knows then; a run that ended before anybody decided has none.
    """
    if run.decision is None or any(span.what == name.ADMISSION_SPAN for span in known):
        return
    end = round((run.started_at or run.finished_at or run.requested_at) * 1e9)
    span = admission_span(trace, run.decision, end, end)
    span.attributes[name.RECOVERED] = True
    yield span


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
        **describe_step(row.step, row.uses, row.iteration, number, run.flow),
        name.STEP_STATUS: row.status,
        name.TASK_RESULT: RESULTS.get(row.status),
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
