"""Spans reach a receiver by OTLP over HTTP, once it is there, whatever happened before."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.export import (
    STATE,
    ExportThread,
    OtlpWire,
    TraceExporter,
    endpoint_url,
    parse_headers,
)
from maestro_dagster.telemetry.span import Trace, run_span_id, trace_id_for


def write_spans(folder: Path, run_id: str, count: int = 3) -> None:
    trace = Trace(folder, run_id, resource={name.SERVICE_NAME: "maestro"})
    root = trace.begin("run shop", name.RUN_SPAN, span_id=run_span_id(run_id), links=(("a" * 32, "b" * 16),))
    for number in range(count - 1):
        with trace.span(f"step {number}", name.STEP_SPAN, parent=root, attributes={"n": number, "l": ["x"]}):
            pass
    root.fail("made-to-fail", "it failed")
    trace.end(root)
    trace.close()


def open_exporter(folder: Path, collector: Any, **options: Any) -> TraceExporter:
    exporter = TraceExporter(folder, OtlpWire(collector.url, timeout=0.5, **options))
    assert exporter.open()
    return exporter


def test_what_was_written_arrives_as_it_was(tmp_path: Path, collector: Any) -> None:
    write_spans(tmp_path, "r1")
    exporter = open_exporter(tmp_path, collector, headers=parse_headers("X-Team = core ,api-key=abc=="))
    assert exporter.send_new() == (3, True)
    assert exporter.send_new() == (0, True)
    exporter.close()
    spans = {span.name: span for span in collector.spans()}
    root = spans["run shop"]
    assert {span.trace_id.hex() for span in spans.values()} == {trace_id_for("r1")}
    assert (root.span_id.hex(), root.status.message) == (run_span_id("r1"), "it failed")
    assert root.links[0].span_id.hex() == "b" * 16
    assert spans["step 1"].parent_span_id == root.span_id
    assert {item.key: item.value.int_value for item in spans["step 1"].attributes}["n"] == 1
    (resource,) = {
        item.value.string_value
        for request in collector.taken
        for group in request.resource_spans
        for item in group.resource.attributes
    }
    assert resource == "maestro"
    assert (collector.headers[0]["x-team"], collector.headers[0]["api-key"]) == ("core", "abc==")


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 500, 503, 401, 429])
def test_what_nobody_took_is_sent_later(tmp_path: Path, collector: Any, status: int) -> None:
    write_spans(tmp_path, "r1")
    exporter = open_exporter(tmp_path, collector)
    collector.status = status
    assert exporter.send_new() == (0, False)
    collector.status = 200
    assert exporter.send_new() == (3, True)
    exporter.close()


def test_another_process_goes_on_where_one_ended(tmp_path: Path, collector: Any) -> None:
    write_spans(tmp_path, "r1")
    first = open_exporter(tmp_path, collector)
    assert first.send_new() == (3, True)
    other = TraceExporter(tmp_path, OtlpWire(collector.url))
    assert not other.open()  # one at a time
    first.close()
    write_spans(tmp_path, "r2", 2)
    (tmp_path / "gone.jsonl").touch()
    assert other.open()
    assert other.send_new() == (2, True)
    other.close()


def test_torn_and_foreign_lines_hold_nobody_up(tmp_path: Path, collector: Any) -> None:
    write_spans(tmp_path, "r1")
    path = tmp_path / "r1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"\xff\x00 no json\n[1]\n{}\n" + whole + whole.splitlines()[0][:-40])
    exporter = open_exporter(tmp_path, collector)
    assert exporter.send_new() == (3, True)
    with path.open("ab") as file:
        file.write(whole.splitlines()[0][-40:] + b"\n")
    assert exporter.send_new() == (1, True)
    exporter.close()


def test_the_state_stays_small(tmp_path: Path, collector: Any) -> None:
    write_spans(tmp_path, "r1")
    exporter = open_exporter(tmp_path, collector)
    exporter.send_new()
    exporter.close()
    with (tmp_path / STATE).open("a") as file:
        file.write("old.jsonl 5\n" * 1000)
    exporter = open_exporter(tmp_path, collector)
    assert (tmp_path / STATE).read_text().splitlines()[0].startswith("r1.jsonl ")
    assert len((tmp_path / STATE).read_text().splitlines()) == 1
    assert exporter.send_new() == (0, True)
    exporter.close()


def test_the_thread_tells_when_nobody_listens_and_when_somebody_does(
    tmp_path: Path, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.telemetry.export._FIRST_PAUSE", 0.05)
    write_spans(tmp_path, "r1")
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    collector.status = 400
    thread = ExportThread(TraceExporter(tmp_path, OtlpWire(collector.url)), say, "collector:4318")
    assert heard.wait(20)
    heard.clear()
    collector.status = 200
    assert heard.wait(20)
    thread.stop()
    assert said == [
        "traces cannot be sent to collector:4318; they are kept and sent later",
        "traces are sent to collector:4318 again",
    ]
    assert len(collector.spans()) == 3


def test_a_redirection_is_told_once_with_its_remedy(
    tmp_path: Path, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.telemetry.export._FIRST_PAUSE", 0.02)
    write_spans(tmp_path, "r1")
    said: list[str] = []
    collector.status = 308
    thread = ExportThread(TraceExporter(tmp_path, OtlpWire(collector.url)), said.append, "collector:4318")
    end = time.monotonic() + 20
    while collector.asked < 4 and time.monotonic() < end:
        time.sleep(0.02)
    thread.stop()
    assert collector.asked >= 4, "it is tried again"
    (told,) = said
    assert told == (
        "traces cannot be sent to collector:4318: it redirects (status 308), which is no delivery; "
        "set otlp_endpoint to the address that it redirects to; they are kept and sent later"
    )
    assert "r1.jsonl" not in (tmp_path / STATE).read_text()


def test_an_endpoint_without_a_path_is_completed() -> None:
    assert endpoint_url("http://localhost:4318") == "http://localhost:4318/v1/traces"
    assert endpoint_url("http://localhost:4318/") == "http://localhost:4318/v1/traces"
    assert endpoint_url("https://example.org/otlp/v1/traces") == "https://example.org/otlp/v1/traces"


def test_a_line_is_a_request_of_the_file_exporter(tmp_path: Path) -> None:
    write_spans(tmp_path, "r1", 2)
    from google.protobuf.json_format import ParseDict

    for line in (tmp_path / "r1.jsonl").read_text().splitlines():
        form = json.loads(line)
        (scope,) = form["resourceSpans"][0]["scopeSpans"]
        for span in scope["spans"]:  # protobuf's own JSON has ids in base64; OTLP's has them in hexadecimal
            for key in ("traceId", "spanId", "parentSpanId"):
                bytes.fromhex(span.pop(key, ""))
            span.pop("links", None)
        assert ParseDict(form, ExportTraceServiceRequest()).resource_spans
