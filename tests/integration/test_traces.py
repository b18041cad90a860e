"""From the push to the last call: one whole trace, told to a collector by the loop, however the run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from trace_count import assert_whole, folder_of, of_kind, values_of

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.events.hook import install_hook
from maestro_dagster.manifest.model import Flow
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import push_span_id, run_span_id, trace_id_for, trace_path
from maestro_dagster.telemetry.trace import parse_request, read_trace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Neighbour(ThreadingHTTPServer):
    """Whom the steps ask. `/wait` answers when it may; each request is remembered by its traceparent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.goes_on = threading.Event()
        self.asked: list[tuple[str, str]] = []

    def told(self, run_id: str, path: str = "") -> list[str]:
        mine = f"-{trace_id_for(run_id)}-"
        return [parent for parent, asked in list(self.asked) if mine in parent and asked.startswith(path)]


class _Answer(BaseHTTPRequestHandler):
    server: Neighbour

    def do_GET(self) -> None:
        self.server.asked.append((self.headers.get("traceparent", ""), self.path))
        if self.path == "/wait":
            self.server.goes_on.wait(120)
        try:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
        except OSError:
            pass  # whoever asked was killed meanwhile

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    server = Neighbour()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def push(folder: Path, inbox: Path) -> None:
    bare, work = folder / "lib.git", folder / "lib"
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(folder, "init", "--quiet", "--initial-branch=main", str(work))
    install_hook(bare, inbox)
    (work / "file").write_text("text")
    git(work, "add", "file")
    git(work, "commit", "--quiet", "--message", "one")
    git(work, "push", "--quiet", str(bare), "HEAD:refs/heads/main")


def test_a_push_is_one_trace_up_to_the_collector(yard: Any, tmp_path: Path, collector: Any) -> None:
    step = {"uses": "pkg:test/witness@1.0.0", "with": {"file": str(tmp_path / "witness")}}
    tasks = [
        {"id": "source", "uses": "pkg:git/checkout@1.0.0"},
        {"id": "one", "needs": [], **step},
        {"id": "pod", "needs": ["one"], "resources": {"pod": True}, **step},
    ]
    yard.write_flow({"name": "traced", "version": "1.0.0", "on": [{"event": "push"}], "tasks": tasks})
    yard.environment |= {"MAESTRO_OTLP_ENDPOINT": collector.url, "MAESTRO_LOG_FORMAT": "json"}
    yard.start()
    push(tmp_path, yard.project.inbox)
    journal = yard.engine.services.journal
    yard.wait_for(lambda: journal.runs(5), 60, "a run")
    (run,) = journal.runs(5)
    view = yard.wait_closed(run.run_id)
    assert view.status == "succeeded"
    spans = read_trace(yard.project.home / "traces", run.run_id)
    known = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent_id not in known]
    assert (root.what, root.span_id) == (name.PUSH_SPAN, push_span_id(run.run_id))
    assert known[run_span_id(run.run_id)].parent_id == root.span_id
    kinds = [span.what for span in spans]
    assert kinds.count(name.ADMISSION_SPAN) == 1
    assert kinds.count(name.STEP_SPAN) == 3
    assert kinds.count(name.SEGMENT_SPAN) >= 2
    assert [span.name for span in spans if span.what == name.CALL_SPAN and span.step == "source"]
    assert known[run_span_id(run.run_id)].attributes[name.DAGSTER_RUN] == list(run.dagster_runs) or (
        known[run_span_id(run.run_id)].attributes[name.DAGSTER_RUN]
        == list(yard.engine.dagster_runs(run.run_id))
    )
    yard.wait_for(lambda: len(collector.spans()) >= len(spans), 30, "the spans at the collector")
    assert {span.span_id.hex() for span in collector.spans()} == set(known)
    log = yard.log.read_text()
    assert f'"trace_id": "{trace_id_for(run.run_id)}"' in log


def make_flow(flow: str, port: int, **more: Any) -> Flow:
    """Calls a model, then twice the neighbour, the second time for as long as that likes."""

    def ask(step: str, path: str, need: str) -> dict[str, Any]:
        return {
            "id": step,
            "uses": "pkg:http/get@1.0.0",
            "needs": [need],
            "egress": ["127.0.0.1"],
            "with": {"url": f"http://127.0.0.1:{port}{path}"},
        }

    hello = {"uses": "pkg:text/template@1.0.0", "with": {"template": "hi"}}
    prompt = "A trace has a span for each call. A call that was refused has none in the ledger."
    tasks = [
        {"id": "write", "uses": "pkg:llm/generate@1.0.0", "with": {"prompt": prompt, "model": "extractive"}},
        ask("ask", "/", "write"),
        ask("wait", "/wait", "ask"),
        {"id": "after", "needs": ["wait"], **hello},
        {"id": "never", "needs": ["write"], "if": "${{ 1 == 2 }}", **hello},
    ]
    return Flow.model_validate({"name": flow, "version": "1.0.0", "tasks": tasks, **more})


def test_a_run_that_ends_badly_has_a_span_for_all_that_was_done(yard: Any, neighbour: Neighbour) -> None:
    engine, port = yard.engine, neighbour.server_port
    yard.environment["MAESTRO_NETWORK_ALLOW_PRIVATE"] = "127.0.0.1"
    yard.start()

    def begin(run_id: str, **more: Any) -> None:
        budget = more.pop("budget_nano", None)
        flow = make_flow(run_id, port, **more)
        engine.request(RunRequest(run_id=run_id, flow=flow, cause="push", budget_nano=budget))

    def reach(run_id: str, times: int = 1) -> None:
        yard.wait_for(lambda: len(neighbour.told(run_id, "/wait")) == times, 90, f"{run_id} to wait")

    begin("denied", region="KP")
    begin("too-dear", budget_nano=1)
    for run_id, rule in (("denied", "residency-banned"), ("too-dear", "budget-exceeded")):
        assert yard.wait_closed(run_id).status == "denied"
        spans = assert_whole(engine, run_id)
        (admission,) = of_kind(spans, name.ADMISSION_SPAN)
        assert rule in admission.attributes[name.POLICY_RULES]
        assert set(values_of(of_kind(spans, name.STEP_SPAN), name.STEP_STATUS)) == {"skipped"}
        assert neighbour.told(run_id) == [], "nothing was asked"

    begin("cancelled")
    reach("cancelled")
    engine.cancel("cancelled")
    assert yard.wait_closed("cancelled").status == "cancelled"
    assert_told(engine, neighbour, "cancelled")

    begin("killed")
    reach("killed")
    for pid in yard.workers():
        os.kill(pid, signal.SIGKILL)
    reach("killed", 2)
    neighbour.goes_on.set()
    assert yard.wait_closed("killed", 90).status == "succeeded"
    spans = assert_told(engine, neighbour, "killed")
    lost = [span for span in spans if span.attributes.get(name.RECOVERED)]
    assert Counter(span.what for span in lost) == {
        name.SEGMENT_SPAN: 1,
        name.STEP_SPAN: 1,
        name.CALL_SPAN: 1,
    }
    yard.stop()


def assert_told(engine: Any, neighbour: Neighbour, run_id: str) -> list[Any]:
    """Each request that came names a span of its own, and there is none of a request that did not come."""
    spans = assert_whole(engine, run_id)
    calls = [span for span in of_kind(spans, name.CALL_SPAN) if span.name == "GET"]
    assert Counter(neighbour.told(run_id)) == Counter(
        f"00-{each.trace_id}-{each.span_id}-01" for each in calls
    )
    lines = trace_path(folder_of(engine), run_id).read_text().splitlines()
    told = [span for line in lines for span in parse_request(json.loads(line))]
    assert len(of_kind(told, name.ADMISSION_SPAN)) == 1, "also in the file, which is what collectors get"
    return spans
