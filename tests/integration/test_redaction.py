"""Secrets of many shapes, said wherever something can be said: none of them is found anywhere afterwards."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
import sqlite3
import string
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from maestro_dagster.project.backend import open_backend
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.secret import secret_variable
from maestro_dagster.telemetry.trace import read_trace

FOLDER = Path(__file__).parent
SOAK = os.environ.get("MAESTRO_SOAK") == "1"
COUNT = 1000 if SOAK else 100
STEPS = 20 if SOAK else 5
LETTERS = string.ascii_letters + string.digits
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 300)]


def load_kind() -> Any:
    spec = importlib.util.spec_from_file_location("leaky_kind", FOLDER / "leaky_kind.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["leaky_kind"] = module
    spec.loader.exec_module(module)
    return module


def plant(chance: random.Random) -> tuple[list[str], list[str], list[str]]:
    """(declared, in the environment only, recognised by their shape only): as many as are asked for."""

    def text(length: int, letters: str = LETTERS) -> str:
        return "".join(chance.choice(letters) for _ in range(length))

    declared = [
        lambda: text(8),
        lambda: text(40),
        lambda: text(64, "0123456789abcdef"),
        lambda: base64.b64encode(chance.randbytes(33)).decode(),
        lambda: f'{text(5)} "{text(5)}" \\{text(5)}',
        lambda: f"{text(6)}/{text(6)}+{text(6)}=&?#%",
        lambda: f"{text(6)}'{text(6)}<{text(4)}>&{text(4)}",
        lambda: f"pä$$wörd-{text(10)}-\N{LOCK}",
        lambda: f"line one {text(12)}\nline two {text(12)}\n",
        lambda: f"postgresql://maestro:{text(16)}@db.example.org/x",
        lambda: json.dumps({"user": text(6), "key": text(24)}),
    ]
    shaped = [
        lambda: f"ghp_{text(36)}",
        lambda: f"glpat-{text(20)}",
        lambda: f"AKIA{text(16, string.ascii_uppercase + string.digits)}",
        lambda: f"xoxb-{text(12, string.digits)}-{text(24)}",
        lambda: f"sk-{text(48)}",
        lambda: f"eyJ{text(20)}.eyJ{text(40)}.{text(43)}",
        lambda: f"npm_{text(36)}",
        lambda: f"https://deploy:{text(20)}@example.org/repository.git",
    ]
    kinds = {"declared": declared, "shaped": shaped}
    found: dict[str, list[str]] = {"declared": [], "environment": [], "shaped": []}
    for number in range(COUNT):
        what = ("declared", "declared", "environment", "shaped")[number % 4]
        makers = kinds.get(what, declared)
        found[what].append(makers[number // 4 % len(makers)]())
    return found["declared"], found["environment"], found["shaped"]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    traces: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.traces.append(self.headers.get("traceparent", ""))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.traces = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/collect"
    server.shutdown()
    thread.join()
    server.server_close()


def write_project(root: Path, declared: list[str], url: str) -> tuple[Project, list[str]]:
    init_project(root)
    settings = root / "pyproject.toml"
    settings.write_text(
        settings.read_text().replace(
            "[tool.maestro]\n", '[tool.maestro]\nnetwork_allow_private = ["127.0.0.1"]\n'
        )
    )
    names = [f"s{number}" for number in range(len(declared))]
    tasks: list[dict[str, Any]] = []
    for step in range(STEPS):
        config = {
            "names": names[step::STEPS],
            "url": url,
            "way": ("done", "error", "crash", "done", "done")[step % 5],
        }
        tasks.append(
            {
                "id": f"leak{step}",
                "uses": "pkg:test/leak@1.0.0",
                "secrets": config["names"],
                "egress": ["127.0.0.1"],
                "isolation": "none",
                "needs": [],
                "with": config,
            }
        )
    tasks.append({"id": "later", "uses": "pkg:test/leak@1.0.0", "needs": ["leak0"], "with": {"way": "done"}})
    flow = {"name": "leak", "version": "1.0.0", "tasks": tasks, "budget": {"usd": "1.00"}}
    for path in (root / "assets").glob("*.yaml"):
        path.unlink()
    (root / "assets" / "leak.json").write_text(json.dumps(flow))
    return find_project(root), names


def call(project: Project, environment: dict[str, str], *arguments: str) -> bytes:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "leaky.py"), *arguments],
        cwd=project.root,
        env=environment,
        capture_output=True,
        timeout=600,
        check=False,
    )
    return done.stdout + done.stderr


def places(project: Project) -> Iterator[tuple[str, bytes]]:
    """Everything that left: all files of the state but contents of artifacts, keys, and the journal's
    copy of what flows and requests say.
    """
    home = project.home
    for path in home.rglob("*"):
        where = path.relative_to(home)
        if not path.is_file() or where.parts[0] in {"artifacts", "keys", "secrets", "cache"}:
            continue
        if where.name.startswith("journal.sqlite"):
            continue
        yield str(where), path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as bundle:
                yield from ((f"{where}/{name}", bundle.read(name)) for name in bundle.namelist())
    yield "journal", read_journal(home / "journal.sqlite")


def read_journal(path: Path) -> bytes:
    """What the journal holds of results: everything but the flow and the request."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT s.facts, s.preview, s.error, s.reason, s.detail, s.claim, a.error FROM step s"
            " LEFT JOIN attempt a ON a.run_id = s.run_id AND a.step = s.step"
        ).fetchall()
        runs = connection.execute("SELECT error, cancel, decision, record FROM run").fetchall()
    finally:
        connection.close()
    return b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for row in [*rows, *runs] for value in row
    )


def test_no_planted_secret_is_found_anywhere(tmp_path: Path, receiver: str) -> None:
    kind = load_kind()
    declared, environment_only, shaped = plant(random.Random(7))
    project, names = write_project(tmp_path / "shop", declared, receiver)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MAESTRO_", "DAGSTER_"))},
        **{secret_variable(name): value for name, value in zip(names, declared, strict=True)},
        **{f"SERVICE{number}_API_KEY": value for number, value in enumerate(environment_only)},
        "LEAK_FILE": str(tmp_path / "plain.json"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    # What nobody declared reaches the steps past the flow: a flow that holds secrets says them itself.
    (tmp_path / "plain.json").write_text(json.dumps([*environment_only, *shaped]))
    said = call(project, environment, "run", "leak", "--json")
    shown = json.loads(said[said.index(b"{") : said.rindex(b"}") + 1])
    run_id = shown["run_id"]
    assert {step["status"] for step in shown["steps"]} >= {"done", "failed"}, shown
    outputs = {"run": said}
    for name, more in (("logs", ["--json"]), ("trace", ["--json"]), ("status", ["--json"]), ("status", [])):
        outputs[f"{name}{more}"] = call(project, environment, name, run_id, *more)
    outputs["compact"] = call(project, environment, "cost", "compact")
    outputs["metrics"] = open_backend(project).metrics()
    assert b"maestro_runs_total" in outputs["metrics"]
    assert b"value 0 is" in outputs["logs['--json']"]
    secrets = {"declared": declared, "environment": environment_only, "shaped": shaped}
    found = [
        (where, what, value)
        for where, data in [*places(project), *outputs.items()]
        for what, values in secrets.items()
        for value in values
        for form in ([value.encode()] if what == "shaped" else kind.forms(value))
        if form in data
    ]
    assert not found, "\n".join(sorted(f"{where} {what} {value[:8]!r}" for where, what, value in found))
    spans = read_trace(project.home / "traces", run_id)
    calls = [span for span in spans if span.attributes.get("http.request.method") == "POST"]
    told = {f"00-{span.trace_id}-{span.span_id}-01" for span in calls}
    assert len(told) == len(Receiver.traces) > 0
    assert set(Receiver.traces) == told
