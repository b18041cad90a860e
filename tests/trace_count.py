"""Whether a trace has everything: counted against the claims of the evidence and the ledger of calls."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.engine.engine import Engine
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import open_path, run_span_id, trace_id_for
from maestro_dagster.telemetry.trace import TraceSpan, read_document, read_trace


def folder_of(engine: Engine) -> Path:
    return engine.services.log_folder.parent / "traces"


def spans_of(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    """As they stand in the project's files."""
    return read_trace(folder_of(engine), run_id)


def document_of(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    """As they stand in the evidence of an ended run."""
    return read_document(read_evidence(engine, run_id, "trace.json"))


def read_evidence(engine: Engine, run_id: str, file: str) -> bytes:
    with zipfile.ZipFile(engine.close(run_id)) as bundle:
        return bundle.read(file)


def of_kind(spans: Sequence[TraceSpan], what: str) -> list[TraceSpan]:
    return [span for span in spans if span.what == what]


def assert_whole(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    """One trace, no loose end, the same in the files and in the evidence; and a span for each thing done."""
    spans = document_of(engine, run_id)
    assert {span.span_id: span for span in spans} == {span.span_id: span for span in spans_of(engine, run_id)}
    assert {span.trace_id for span in spans} == {trace_id_for(run_id)}
    known = {span.span_id for span in spans}
    assert len(known) == len(spans)
    assert [span for span in spans if span.parent_id and span.parent_id not in known] == []
    assert [span.what for span in spans if not span.parent_id] == [name.RUN_SPAN]
    assert [span.span_id for span in of_kind(spans, name.RUN_SPAN)] == [run_span_id(run_id)]
    assert all(span.end >= span.start > 0 for span in spans)
    _count_admission(engine, run_id, of_kind(spans, name.ADMISSION_SPAN))
    _count_steps(engine, run_id, of_kind(spans, name.STEP_SPAN))
    _count_calls(engine, run_id, of_kind(spans, name.CALL_SPAN))
    assert not open_path(folder_of(engine), run_id).exists()
    return spans


def _count_admission(engine: Engine, run_id: str, spans: Sequence[TraceSpan]) -> None:
    """One, whatever was decided and however often the run was taken up; none of a run nobody decided on."""
    decision = engine.view(run_id).decision
    wanted = [] if decision is None else ["allow" if decision["allow"] else "deny"]
    assert [span.attributes[name.POLICY_DECISION] for span in spans] == wanted
    for span in spans:
        assert span.parent_id == run_span_id(run_id)
        assert span.attributes[name.POLICY_PACKS] == [
            f"{verdict['pack']}@{verdict['digest']}"
            for verdict in json.loads(read_evidence(engine, run_id, "policy-decisions.json"))["verdicts"]
        ]
        assert span.failed == (wanted == ["deny"])
        assert span.end > span.start or span.attributes[name.RECOVERED]


def _count_steps(engine: Engine, run_id: str, spans: Sequence[TraceSpan]) -> None:
    """One for each attempt of each claim; one for what was never tried; the same of iterations."""
    claims = [json.loads(line) for line in read_evidence(engine, run_id, "signed-claims.jsonl").splitlines()]
    assert {claim["step"] for claim in claims} == {task.id for task in engine.flow(run_id).tasks}
    whole = Counter(span.step for span in spans if span.attributes[name.STEP_ITERATION] == -1)
    assert whole == {claim["step"]: max(1, claim["attempts"]) for claim in claims}
    each = Counter(
        (span.step, span.attributes[name.STEP_ITERATION])
        for span in spans
        if span.attributes[name.STEP_ITERATION] >= 0
    )
    assert each == {
        (claim["step"], item["index"]): item["attempts"]
        for claim in claims
        for item in claim.get("iterations", ())
    }


def _count_calls(engine: Engine, run_id: str, spans: Sequence[TraceSpan]) -> None:
    """One for each call of a model that the ledger has; one that a budget refused was not made."""
    made = [
        span for span in spans if name.GEN_AI_OPERATION in span.attributes or span.name.startswith("chat")
    ]
    asked = Counter(span.step for span in made if not _is_refused(span))
    events = {
        event.event_id: event for event in engine.services.spool.read_run(run_id) if event.kind == "llm"
    }
    assert asked == Counter(event.step for event in events.values())


def _is_refused(span: TraceSpan) -> bool:
    return str(span.attributes.get(name.ERROR_TYPE, "")).startswith("budget-")


def values_of(spans: Sequence[TraceSpan], key: str) -> list[Any]:
    return [span.attributes.get(key) for span in spans]
