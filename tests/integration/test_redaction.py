"""Secrets of many shapes, said wherever something can be said: none of them is found anywhere afterwards."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from leaky_plant import SOAK, Planted, install_kind, places, plant, write_project
from leaky_server import Server

from maestro_dagster.engine.engine import Engine
from maestro_dagster.project.backend import open_backend
from maestro_dagster.project.root import Project
from maestro_dagster.project.services import open_engine
from maestro_dagster.telemetry.trace import read_trace

CLOSED = {"succeeded", "failed", "denied", "cancelled"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 300)]


class Receiver(ThreadingHTTPServer):
    """Whom the steps send their secrets to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.traces: list[str] = []


class _Receive(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.traces.append(self.headers.get("traceparent", ""))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Silent."""


@dataclass(frozen=True, slots=True)
class Leaky:
    """A project whose flow was run once, and what the command said of that."""

    project: Project
    planted: Planted
    environment: dict[str, str]
    receiver: Receiver
    said: bytes

    def call(self, *arguments: str) -> bytes:
        return call(self.project.root, self.environment, *arguments)


def call(folder: Path, environment: dict[str, str], *arguments: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "maestro_dagster", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=600,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaky]:
    folder = tmp_path_factory.mktemp("leaky")
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever)
    thread.start()
    planted = plant(random.Random(7))
    project = write_project(folder / "shop", planted, f"http://127.0.0.1:{receiver.server_port}/collect")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MAESTRO_", "DAGSTER_"))},
        **planted.variables(),
        **install_kind(folder / "packages"),
        "LEAK_FILE": str(folder / "plain.json"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    # What nobody declared reaches the steps past the flow: a flow that holds secrets says them itself.
    (folder / "plain.json").write_text(json.dumps([*planted.environment, *planted.shaped]))
    said = call(project.root, environment, "run", "leak", "--json")
    yield Leaky(project, planted, environment, receiver, said)
    receiver.shutdown()
    thread.join()
    receiver.server_close()


def test_no_planted_secret_is_found_anywhere(leaky: Leaky) -> None:
    said = leaky.said
    # Steps print to the same place.
    shown, _ = json.JSONDecoder().raw_decode(said[said.index(b'{\n  "run_id"') :].decode())
    run_id = shown["run_id"]
    assert {step["status"] for step in shown["steps"]} >= {"done", "failed"}, shown
    outputs = {"run": said}
    for name, more in (("logs", ["--json"]), ("trace", ["--json"]), ("status", ["--json"]), ("status", [])):
        outputs[f"{name}{more}"] = leaky.call(name, run_id, *more)
    outputs["compact"] = leaky.call("cost", "compact")
    outputs["metrics"] = open_backend(leaky.project).metrics()
    assert b"maestro_runs_total" in outputs["metrics"]
    assert b"value 0 is" in outputs["logs['--json']"]
    assert all(text in said for text in (b"printed ***", b"written ***", b"echoed ***"))
    found = leaky.planted.find([*places(leaky.project), *outputs.items()])
    assert not found, "\n".join(found)
    spans = read_trace(leaky.project.home / "traces", run_id)
    calls = [span for span in spans if span.attributes.get("http.request.method") == "POST"]
    told = {f"00-{span.trace_id}-{span.span_id}-01" for span in calls}
    traces = [each for each in leaky.receiver.traces if spans[0].trace_id in each]
    assert len(told) == len(traces) > 0
    assert set(traces) == told


def test_no_planted_secret_is_found_by_asking_the_server(leaky: Leaky, tmp_path: Path) -> None:
    """By whoever reaches it: a forge that delivers, Prometheus, and people at the Dagster UI."""
    server = Server(leaky.project, leaky.environment, tmp_path, leaky.planted)
    engine = open_engine(leaky.project)
    try:
        server.start()
        statuses = server.deliver()
        assert statuses[0] == 202, server.replies[0]
        assert set(statuses) == {202, 400, 401, 403, 404}, statuses
        run_id = server.wait_for(lambda: find_run(engine), 120, "the end of the run")
        server.look()
        outputs = {"status": leaky.call("status", run_id, "--json"), "logs": leaky.call("logs", run_id)}
    finally:
        server.stop()
        engine.services.policy.close()
        engine.services.journal.close()
    replies = b"\n".join(data for _, data in server.replies)
    for text in (
        b"printed ***",
        b"written ***",
        b"echoed ***",
        b'mc_router_requests_total{model="***"',
        b"use *** and ***",
    ):
        assert text in replies, text
    assert b'"path": "/webhooks/***"' in (leaky.project.home / "logs" / "access.ndjson").read_bytes()
    found = leaky.planted.find([*server.replies, *outputs.items(), *places(leaky.project)])
    assert not found, "\n".join(found)


def find_run(engine: Engine) -> str | None:
    """The run of the pull request, when it has ended."""
    ended = [view for view in engine.list_runs() if view.flow == "leak-event" and view.evidence]
    return ended[0].run_id if ended and ended[0].status in CLOSED else None
