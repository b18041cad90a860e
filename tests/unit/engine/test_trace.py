"""Every run, step and call has a span: counted against the claims, whatever became of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
from maestro_dagster.errors import ModelError
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.llm.interface import CallLedger, ModelReply, ModelRequest, ModelUsage
from maestro_dagster.sandbox.cage import open_cage
from maestro_dagster.sandbox.interface import CagedCommand
from maestro_dagster.steps.catalogue import Catalogue
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import open_path, push_span_id, run_span_id, trace_id_for
from maestro_dagster.telemetry.trace import TraceSpan, read_document, read_trace

WORKER = Path(__file__).with_name("worker.py")
ASK = "pkg:test/ask@1.0.0"


class AskConfig(StepConfig):
    model: str = "good"
    calls: int = 1
    command: tuple[str, ...] = ()


class Ask(StepKind[AskConfig]):
    """Calls a model, or a command in the cage."""

    uses = ASK
    config = AskConfig

    async def run(self, context: StepContext, config: AskConfig, inputs: Mapping[str, Any]) -> StepResult:
        if config.command:
            found = await context.cage.run(CagedCommand(argv=config.command, isolation="none"))
            return StepResult(data=found.stdout, media_type="text/plain")
        text = ""
        for _ in range(config.calls):
            request = ModelRequest(messages=({"role": "user", "content": "hello"},), model=config.model)
            text += (await context.models.generate(request, context.ledger)).text
        return StepResult(data=text.encode(), media_type="text/plain")


class Hub:
    """Stands for a provider; remembers what it was told of the trace."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []

    def estimate_nano(self, request: ModelRequest) -> int | None:
        return 0

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        self.asked.append(request)
        call = await ledger.intend("test", str(request.model), 10)
        if request.model == "bad":
            await ledger.settle(call, None, "model-refused")
            error = ModelError("the model was refused with status 503", code="model-refused")
            error.status = 503
            raise error
        usage = ModelUsage(3, 4, cost_nano=7)
        await ledger.settle(call, usage)
        return ModelReply("hi ", "test", "good-1", usage, 1, generative=True)


class Kinds:
    def __init__(self, support: ModuleType) -> None:
        self._own = {ASK: Ask(), support.MAKE: support.Make()}
        self._built_in = Catalogue()

    def kind(self, uses: str) -> Any:
        return self._own.get(uses) or self._built_in.kind(uses)


def folder_of(engine: Engine) -> Path:
    return engine.services.log_folder.parent / "traces"


def spans_of(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    return read_trace(folder_of(engine), run_id)


def document_of(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    with zipfile.ZipFile(engine.services.evidence_folder / f"{run_id}.zip") as bundle:
        return read_document(bundle.read("trace.json"))


def claims_of(engine: Engine, run_id: str = "r1") -> list[dict[str, Any]]:
    with zipfile.ZipFile(engine.services.evidence_folder / f"{run_id}.zip") as bundle:
        return [json.loads(line) for line in bundle.read("signed-claims.jsonl").splitlines()]


def assert_whole(engine: Engine, run_id: str = "r1") -> list[TraceSpan]:
    """One trace, one root, no loose end; a span for each attempt of each claim, also in the evidence."""
    spans = document_of(engine, run_id)
    assert {span.span_id: span for span in spans} == {span.span_id: span for span in spans_of(engine, run_id)}
    assert {span.trace_id for span in spans} == {trace_id_for(run_id)}
    known = {span.span_id for span in spans}
    assert len(known) == len(spans)
    assert [span for span in spans if span.parent_id and span.parent_id not in known] == []
    assert [span.what for span in spans if not span.parent_id] == [name.RUN_SPAN]
    assert all(span.end >= span.start > 0 for span in spans)
    whole = Counter(
        span.step
        for span in spans
        if span.what == name.STEP_SPAN and span.attributes[name.STEP_ITERATION] == -1
    )
    assert whole == {claim["step"]: max(1, claim["attempts"]) for claim in claims_of(engine, run_id)}
    each = Counter(
        (span.step, span.attributes[name.STEP_ITERATION])
        for span in spans
        if span.what == name.STEP_SPAN and span.attributes[name.STEP_ITERATION] >= 0
    )
    assert each == {
        (claim["step"], item["index"]): item["attempts"]
        for claim in claims_of(engine, run_id)
        for item in claim.get("iterations", ())
    }
    assert not open_path(folder_of(engine), run_id).exists()
    return spans


def only(spans: Sequence[TraceSpan], step: str) -> TraceSpan:
    (found,) = [span for span in spans if span.what == name.STEP_SPAN and span.step == step]
    return found


def test_done_failed_skipped_retried_and_mapped_steps_have_spans(
    perform: Callable[..., Any], engine: Engine, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "good"},
        {"id": "flaky", "retries": 2, "with": {"fail_first": 1}},
        {"id": "bad", "with": {"fail": "no luck"}},
        {"id": "after", "needs": ["bad"]},
        {"id": "never", "if": "${{ 1 == 2 }}"},
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": [1, 2, 3], "uses": support.MAKE, "with": {"text": "${{ item }}"}},
        },
    )
    perform(flow, git={"sha": "a" * 40, "ref": "refs/heads/main", "repository": "shop"})
    spans = assert_whole(engine)
    (run,) = [span for span in spans if span.what == name.RUN_SPAN]
    assert (run.failed, run.attributes[name.PIPELINE_RESULT]) == (True, "failure")
    assert run.attributes[name.REVISION] == "a" * 40
    (segment,) = [span for span in spans if span.what == name.SEGMENT_SPAN]
    assert (segment.parent_id, only(spans, "good").parent_id) == (run.span_id, segment.span_id)
    assert only(spans, "bad").attributes[name.ERROR_TYPE] == "made-to-fail"
    assert only(spans, "bad").message == "no luck"
    assert only(spans, "after").attributes[name.STEP_STATUS] == "skipped"
    assert only(spans, "after").attributes[name.STEP_ATTEMPT] == 0
    flaky = [span for span in spans if span.step == "flaky"]
    assert [span.failed for span in flaky] == [True, False]
    loop = next(span for span in spans if span.step == "each" and span.attributes[name.STEP_ITERATION] == -1)
    assert {span.parent_id for span in spans if span.attributes.get(name.STEP_ITERATION, -1) >= 0} == {
        loop.span_id
    }
    assert verify_bundle(
        engine.services.evidence_folder / "r1.zip",
        [engine.services.signer.public_pem],  # type: ignore[union-attr]
    ).ok


def test_calls_have_spans_and_learn_of_the_trace(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    hub = Hub()
    engine = open_engine(catalogue=Kinds(support), hub=hub, cage=open_cage(hidden=()))
    shell = ("/bin/sh", "-c", "printf %s $TRACEPARENT")
    flow = support.make_flow(
        {"id": "ask", "uses": ASK, "with": {"calls": 3}},
        {"id": "fail", "uses": ASK, "with": {"model": "bad"}},
        {"id": "exec", "uses": ASK, "isolation": "none", "with": {"command": list(shell)}},
    )
    engine.request(support.make_request("r1", flow))
    outcomes = {each.step: each for each in engine.stream_segment("r1", support.all_steps(flow))}
    engine.close("r1")
    spans = assert_whole(engine)
    calls = [span for span in spans if span.what == name.CALL_SPAN]
    assert Counter(span.step for span in calls) == {"ask": 3, "fail": 1, "exec": 1}
    parents = {step: only(spans, step).span_id for step in ("ask", "fail", "exec")}
    assert all(span.parent_id == parents[span.step] for span in calls)
    told = {f"00-{span.trace_id}-{span.span_id}-01" for span in calls if span.step in ("ask", "fail")}
    assert {request.traceparent for request in hub.asked} == told
    (inside,) = [span for span in calls if span.step == "exec"]
    artifact = outcomes["exec"].artifact
    assert artifact is not None
    said = engine.services.store.read(artifact.digest).decode()
    assert said == f"00-{inside.trace_id}-{inside.span_id}-01"
    good = next(span for span in calls if span.step == "ask")
    assert good.attributes[name.GEN_AI_INPUT_TOKENS] == 3
    assert good.attributes[name.GEN_AI_RESPONSE_MODEL] == "good-1"
    assert next(span for span in calls if span.step == "fail").attributes[name.ERROR_TYPE] == "model-refused"
    rows = {row.step: row for row in engine.services.journal.steps("r1")}
    (count,) = rows["ask"].detail["calls"]
    assert (count["requests"], count["success"], sum(count["buckets"])) == (3, 3, 3)
    assert rows["fail"].detail["calls"][0]["failures"] == {"5xx": 1}


def test_a_denied_and_a_cancelled_run_have_whole_traces(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine()
    flow = support.make_flow({"id": "one", "with": {"seconds": 30}}, {"id": "two", "needs": ["one"]})
    engine.request(support.make_request("r1", flow))
    stream = engine.stream_segment("r1", support.all_steps(flow))
    engine.cancel("r1")
    list(stream)
    engine.close("r1")
    spans = assert_whole(engine)
    assert spans[0].attributes[name.PIPELINE_RESULT] == "cancellation"
    engine.request(support.make_request("r2", flow))
    engine.cancel("r2")
    engine.close("r2")
    assert_whole(engine, "r2")


def test_a_process_that_is_killed_leaves_a_whole_trace(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    engine = open_engine()
    flow = support.make_flow(
        {"id": "first"},
        {"id": "long", "needs": ["first"], "with": {"seconds": 60}},
        {"id": "last", "needs": ["first"]},
    )
    engine.request(support.make_request("r1", flow))
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(tmp_path), "r1"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while not any(span.step == "long" for span in spans_of(engine)):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    engine.cancel("r1")
    list(engine.stream_segment("r1", support.all_steps(flow)))
    engine.close("r1")
    spans = assert_whole(engine)
    lost = [span for span in spans if span.attributes.get(name.RECOVERED)]
    assert {span.what for span in lost} == {name.SEGMENT_SPAN, name.STEP_SPAN}
    assert {span.attributes[name.ERROR_TYPE] for span in lost} == {"process-lost"}


def test_a_resume_goes_on_in_the_same_trace(open_engine: Callable[..., Engine], support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"]})
    engine = open_engine()
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ["one"]))
    list(engine.stream_segment("r1", ["two"]))
    engine.close("r1")
    spans = assert_whole(engine)
    assert len([span for span in spans if span.what == name.SEGMENT_SPAN]) == 2
    engine.request(support.make_request("r2", flow, reuse_from="r1"))
    list(engine.stream_segment("r2", support.all_steps(flow)))
    engine.close("r2")
    again = assert_whole(engine, "r2")
    assert {span.attributes[name.STEP_STATUS] for span in again if span.step} == {"reused"}
    root = next(span for span in again if span.what == name.RUN_SPAN)
    assert root.body["links"] == [{"traceId": trace_id_for("r1"), "spanId": run_span_id("r1")}]


def test_a_disk_that_takes_no_spans_costs_no_step_and_no_claim(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine()
    folder_of(engine).parent.mkdir(parents=True, exist_ok=True)
    folder_of(engine).write_text("in the way")
    flow = support.make_flow({"id": "one"})
    engine.request(support.make_request("r1", flow))
    assert [each.status for each in engine.stream_segment("r1", ["one"])] == ["done"]
    assert verify_bundle(engine.close("r1"), [engine.services.signer.public_pem]).ok  # type: ignore[union-attr]


def test_a_lost_line_is_written_again_from_the_journal(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine()
    flow = support.make_flow({"id": "one"}, {"id": "two"})
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", support.all_steps(flow)))
    for path in folder_of(engine).iterdir():
        path.unlink()
    engine.close("r1")
    spans = document_of(engine)
    assert sorted(span.step for span in spans if span.step) == ["one", "two"]


@pytest.mark.parametrize("event", [{}, {"event_id": "e" * 20}])
def test_the_trace_begins_with_the_event(
    perform: Callable[..., Any], engine: Engine, support: ModuleType, event: dict[str, str]
) -> None:
    perform(support.make_flow({"id": "one"}), git=event)
    root = next(span for span in spans_of(engine) if span.what == name.RUN_SPAN)
    assert root.parent_id == (push_span_id("r1") if event else "")
