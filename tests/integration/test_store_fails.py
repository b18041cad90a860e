"""Where an object store fails, whoever runs a flow is told of the store, and not of Dagster."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.workers.dispatch import EXIT_BLOCKED

pytestmark = pytest.mark.slow
_FLOW = """\
name: greet
version: 1.0.0
tasks:
  - {id: hello, uses: "pkg:text/template@1.0.0", with: {template: hello}}
  - {id: again, uses: "pkg:text/template@1.0.0", needs: [hello], with: {template: again}}
"""
_SECRET = "tr0ub4dor-and-3-horses"
_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"""
_SAID = {  # as S3 says it
    403: ("AccessDenied", f"User maestro with {_SECRET} is not authorized to perform: s3:PutObject"),
    500: ("InternalError", "We encountered an internal error. Please try again."),
}


class _Doubtful(ThreadingHTTPServer):
    """A way to the S3 at `behind`. `fault` is how requests for `bucket` end: a status, 0 for a reset."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = urlsplit(behind)
        self.fault: int | None = None
        self.bucket = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Passing(BaseHTTPRequestHandler):
    server: _Doubtful
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.fault is not None and self.path.startswith(f"/{self.server.bucket}"):
            self._fail(self.server.fault)
            return
        behind = http.client.HTTPConnection(str(self.server.behind.hostname), self.server.behind.port)
        behind.request(self.command, self.path, body, dict(self.headers.items()))
        answer = behind.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                self.send_header(name, value)
        length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
        self.send_header("content-length", length or "0")
        self.end_headers()
        self.wfile.write(data)
        behind.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815 - names of http.server

    def _fail(self, fault: int) -> None:
        if fault == 0:  # a reset, as from a balancer that has nobody behind it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        code, message = _SAID[fault]
        data = b"" if self.command == "HEAD" else _ERROR.format(code=code, message=message).encode()
        self.send_response(fault)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def finish(self) -> None:
        if not self.close_connection or self.server.fault != 0:
            super().finish()


@pytest.fixture
def doubtful(s3_server: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Doubtful]:
    import s3fs

    server = _Doubtful(s3_server)
    server.bucket = s3_bucket.removeprefix("s3://")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MAESTRO_SECRET_S3", _SECRET)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.fixture
def root(tmp_path: Path, doubtful: _Doubtful, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose artifacts and evidence go through `doubtful`."""
    found = init_project(tmp_path / "shop").root
    (found / "assets" / "greet.yaml").write_text(_FLOW)
    monkeypatch.chdir(found)
    monkeypatch.setenv("MAESTRO_ARTIFACT_STORE", f"s3://{doubtful.bucket}/artifacts")
    return found


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize(
    ("fault", "why"),
    [(403, "PermissionError"), (500, "internal error"), (0, "Connect|ClientOSError|reset|Disconnected")],
)
def test_the_run_names_the_store_and_goes_on_once_it_is_back(
    root: Path, doubtful: _Doubtful, capsys: pytest.CaptureFixture[str], fault: int, why: str
) -> None:
    doubtful.fault = fault
    assert run_command(["run", "greet", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "artifact-write", error
    assert re.search(why, error["fact"]), error
    assert f"s3://{doubtful.bucket}/artifacts" in error["place"]
    assert "artifact_store" in error["remedy"]
    assert "maestro retry" in error["remedy"]

    assert run_command(["status", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    run_id = run["run_id"]
    for command in (["status", run_id], ["logs", run_id]):
        assert run_command(command) == 0
        said = _said(capsys)
        assert re.search(why, said), said
        assert "artifact_store" in said, said
        assert _SECRET not in said
    assert run_command(["status", run_id, "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["orphaned"]
    assert shown["error"]["code"] == "artifact-write"
    assert _SECRET not in json.dumps([error, shown])

    doubtful.fault = None
    assert run_command(["retry", run_id, "--json"]) == 0, _said(capsys)
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] == "succeeded"
    assert shown["error"] is None
    assert run_command(["status", run_id]) == 0
    assert "artifact_store" not in _said(capsys)


_WORK = """
import sys
from maestro_dagster.project.root import find_project
from maestro_dagster.project.runtime import open_runtime
from maestro_dagster.workers.perform import perform_job
from maestro_dagster.workers.zygote import Job
sys.exit(perform_job(Job("maestro", sys.argv[1]), lambda: open_runtime(find_project())))
"""


def test_a_loop_waits_for_the_store_and_counts_no_death(
    root: Path, doubtful: _Doubtful, capsys: pytest.CaptureFixture[str]
) -> None:
    doubtful.fault = 403
    assert run_command(["run", "greet", "--json"]) == 1
    capsys.readouterr()
    assert run_command(["status", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]

    def work() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _WORK, run["run_id"]]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)

    done = work()
    assert done.returncode == EXIT_BLOCKED, done.stderr
    assert "artifact_store" in done.stderr
    assert _SECRET not in done.stdout + done.stderr
    doubtful.fault = None
    done = work()
    assert done.returncode == 0, done.stderr


def test_evidence_that_cannot_be_stored_is_told_too(
    root: Path,
    doubtful: _Doubtful,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MAESTRO_ARTIFACT_STORE")
    monkeypatch.setenv("MAESTRO_EVIDENCE", f"s3://{doubtful.bucket}/evidence")
    doubtful.fault = 403
    assert run_command(["run", "greet", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "evidence" in error["place"]
    assert error["code"] != "dagster-run"
    assert run_command(["status", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run_command(["logs", run["run_id"]]) == 0
    assert error["fact"] in _said(capsys)


@pytest.mark.parametrize("setting", ["artifact_store", "evidence", "lake"])
def test_the_doctor_asks_every_store(
    root: Path,
    doubtful: _Doubtful,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    monkeypatch.delenv("MAESTRO_ARTIFACT_STORE")
    monkeypatch.setenv(f"MAESTRO_{setting.upper()}", f"s3://{doubtful.bucket}/{setting}")

    def findings() -> list[dict[str, Any]]:
        run_command(["doctor", "--json"])
        found = json.loads(capsys.readouterr().out)
        checks: list[dict[str, Any]] = found["checks"] if isinstance(found, dict) else found
        return [each for each in checks if each["check"] in {"store", "evidence", "lake"}]

    assert [each["status"] for each in findings()] == ["ok"] * 3
    doubtful.fault = 403
    (bad,) = [each for each in findings() if each["status"] != "ok"]
    assert bad["status"] == "error"
    assert setting in bad["remedy"]
    assert _SECRET not in json.dumps(bad)
