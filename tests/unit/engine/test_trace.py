"""Every run, step and call has a span: counted against the claims, whatever became of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from trace_count import assert_whole, document_of, folder_of, of_kind, spans_of

from maestro_dagster.engine.engine import Engine
from maestro_dagster.errors import ModelError
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.llm.interface import CallLedger, ModelReply, ModelRequest, ModelUsage
from maestro_dagster.sandbox.cage import open_cage
from maestro_dagster.sandbox.interface import CagedCommand
from maestro_dagster.steps.catalogue import Catalogue
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import push_span_id, run_span_id, trace_id_for, trace_path
from maestro_dagster.telemetry.trace import TraceSpan

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

    def __init__(self, nano: int = 10) -> None:
        self.asked: list[ModelRequest] = []
        self.nano = nano  # that a call may cost

    def estimate_nano(self, request: ModelRequest) -> int | None:
        return 0

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        self.asked.append(request)
        call = await ledger.intend("test", str(request.model), self.nano)
        if request.model == "bad":
            await ledger.settle(call, None, "model-refused")
            error = ModelError("the model was refused with status 503", code="model-refused")
            error.status = 503
            raise error
        usage = ModelUsage(3, 4, cost_nano=self.nano - 3)
        await ledger.settle(call, usage)
        return ModelReply("hi ", "test", "good-1", usage, 1, generative=True)


class Kinds:
    def __init__(self, support: ModuleType) -> None:
        self._own = {ASK: Ask(), support.MAKE: support.Make()}
        self._built_in = Catalogue()

    def kind(self, uses: str) -> Any:
        return self._own.get(uses) or self._built_in.kind(uses)


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


def test_a_denied_run_has_a_span_for_its_admission_and_for_each_step(
    engine: Engine, support: ModuleType
) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"]}, name="denied")
    engine.request(support.make_request("r1", flow))
    assert not engine.admit("r1").allow
    assert not engine.admit("r1").allow, "asked again, as every segment of a resumed run does"
    spans = assert_whole(engine)
    assert [span.what for span in spans] == [
        name.RUN_SPAN,
        name.ADMISSION_SPAN,
        name.STEP_SPAN,
        name.STEP_SPAN,
    ]
    run, admission, *steps = spans
    assert (run.failed, run.attributes[name.ERROR_TYPE], admission.attributes[name.ERROR_TYPE]) == (
        True,
        "denied",
        "denied",
    )
    assert [span.attributes[name.STEP_REASON] for span in steps] == ["the run was denied"] * 2
    assert run.start <= admission.start < admission.end <= run.end
    assert admission.attributes[name.POLICY_INPUT] == "sha256:" + "1" * 64


def test_a_run_refused_by_its_budget_names_the_rule(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one", "uses": "pkg:git/checkout@1.0.0"}, {"id": "two"})
    engine.request(support.make_request("r1", flow, budget_nano=1))
    assert not engine.admit("r1").allow
    (admission,) = of_kind(assert_whole(engine), name.ADMISSION_SPAN)
    assert admission.attributes[name.POLICY_RULES] == ["budget-exceeded"]
    assert "exceeds the budget" in admission.message


def test_a_call_that_the_budget_refuses_midway_is_counted_as_none(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine(catalogue=Kinds(support), hub=Hub(400_000))
    flow = support.make_flow({"id": "ask", "uses": ASK, "with": {"calls": 3}}, budget={"usd": "0.001"})
    engine.request(support.make_request("r1", flow))
    (outcome,) = engine.stream_segment("r1", support.all_steps(flow))
    assert (outcome.error or {})["code"] == "budget-exhausted"
    engine.close("r1")
    calls = of_kind(assert_whole(engine), name.CALL_SPAN)
    assert [span.attributes.get(name.ERROR_TYPE) for span in calls] == [None, None, "budget-exhausted"]


@pytest.mark.parametrize("admitted", [True, False])
def test_a_cancelled_run_has_a_whole_trace(engine: Engine, support: ModuleType, admitted: bool) -> None:
    flow = support.make_flow({"id": "one", "with": {"seconds": 30}}, {"id": "two", "needs": ["one"]})
    engine.request(support.make_request("r1", flow))
    stream = engine.stream_segment("r1", support.all_steps(flow))
    engine.cancel("r1")
    if admitted:
        list(stream)
    engine.close("r1")
    spans = assert_whole(engine)
    assert spans[0].attributes[name.PIPELINE_RESULT] == "cancellation"
    assert len(of_kind(spans, name.ADMISSION_SPAN)) == admitted, "a run that nobody decided on"
    assert engine.admit("r1").allow == admitted, "nobody decides on a run that has ended"
    assert assert_whole(engine) == spans


def test_of_two_who_admit_a_run_at_once_one_tells_of_it(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    """What is told is what was kept: the other's decision may have been another one."""
    both = threading.Barrier(2)

    class Slow(support.AllowAll):  # type: ignore[misc, name-defined]
        def evaluate(self, document: Mapping[str, Any]) -> Any:
            both.wait(20)
            return super().evaluate(document)

    engines = [open_engine(policy=Slow()) for _ in range(2)]
    flow = support.make_flow({"id": "one"})
    engines[0].request(support.make_request("r1", flow))
    with ThreadPoolExecutor(2) as pool:
        assert [found.allow for found in pool.map(lambda each: each.admit("r1"), engines)] == [True, True]
    lines = trace_path(folder_of(engines[0]), "r1").read_text().splitlines()
    assert len(lines) == 1
    list(engines[0].stream_segment("r1", ["one"]))
    engines[0].close("r1")
    assert_whole(engines[0])


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
    (admission,) = of_kind(spans, name.ADMISSION_SPAN)
    assert admission.attributes[name.RECOVERED]
    assert admission.attributes[name.POLICY_DECISION] == "allow"


def test_a_run_given_up_before_its_admission_has_failed(engine: Engine, support: ModuleType) -> None:
    engine.request(support.make_request("r1", support.make_flow({"id": "one"})))
    engine.close("r1")
    view = engine.view("r1")
    assert (view.status, (view.error or {})["code"]) == ("failed", "run-incomplete")
    spans = assert_whole(engine)
    assert [span.what for span in spans] == [name.RUN_SPAN, name.STEP_SPAN]
    assert spans[0].attributes[name.ERROR_TYPE] == "run-incomplete"


@pytest.mark.parametrize("event", [{}, {"event_id": "e" * 20}])
def test_the_trace_begins_with_the_event(
    perform: Callable[..., Any], engine: Engine, support: ModuleType, event: dict[str, str]
) -> None:
    perform(support.make_flow({"id": "one"}), git=event)
    root = next(span for span in spans_of(engine) if span.what == name.RUN_SPAN)
    assert root.parent_id == (push_span_id("r1") if event else "")
