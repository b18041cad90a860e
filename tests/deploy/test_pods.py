"""A run whose segments are pods: dagster-k8s asks a Kubernetes on loopback, which does what it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_FLOW = """\
name: podded
version: 1.0.0
tasks:
  - {id: first, uses: "pkg:text/template@1.0.0", with: {template: one}}
  - {id: left, uses: "pkg:text/template@1.0.0", needs: [first], with: {template: l}, resources: {pod: true}}
  - {id: right, uses: "pkg:text/template@1.0.0", needs: [first], with: {template: r}, resources: {pod: true}}
  - {id: last, uses: "pkg:text/template@1.0.0", needs: [left, right], with: {template: three}}
"""
_INSTANCE = """\
telemetry: {{enabled: false}}
run_launcher:
  module: dagster_k8s
  class: K8sRunLauncher
  config:
    load_incluster_config: false
    kubeconfig_file: {kubeconfig}
    job_namespace: ci
    job_image: registry.example.org/maestro@sha256:{digest}
    service_account_name: dagster
    instance_config_map: dagster-instance
"""


class _Cluster(ThreadingHTTPServer):
    """Jobs are processes of this machine; `running` has them by name."""

    daemon_threads = True

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.environment = environment
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start_job(self, job: dict[str, Any]) -> None:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        arguments = [*container.get("command", ()), *container["args"]]
        assert arguments[0] == "dagster"
        own = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        own.pop("DAGSTER_HOME", None)  # a folder of the image
        self.running[job["metadata"]["name"]] = subprocess.Popen(
            [sys.executable, "-m", *arguments], env={**self.environment, **own}, stdout=subprocess.DEVNULL
        )


class _Api(BaseHTTPRequestHandler):
    server: _Cluster

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removesuffix("/status").rpartition("/")[2]
        process = self.server.running.get(name)
        if process is None:
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": []})
            return
        code = process.poll()
        state = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
        self._answer(200, {"metadata": {"name": name}, "spec": {"template": {}}, "status": state})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.start_job(job)
        self._answer(201, job)

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    from click.testing import CliRunner

    from maestro_dagster.cli.main import command

    root = tmp_path / "shop"
    assert CliRunner().invoke(command, ["init", str(root)]).exit_code == 0
    (root / "assets" / "podded.yaml").write_text(_FLOW, encoding="utf-8")
    return root


@pytest.fixture
def environment(project: Path, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "dagster"
    home.mkdir()
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("MAESTRO_", "DAGSTER_"))}
    return {
        **clean,
        "DAGSTER_HOME": str(home),
        "MAESTRO_PROJECT": str(project),
        "MAESTRO_PODS": "true",
        "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.2",
    }


@pytest.fixture
def cluster(environment: dict[str, str], tmp_path: Path) -> Iterator[_Cluster]:
    server = _Cluster(environment)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config), encoding="utf-8")
    text = _INSTANCE.format(kubeconfig=kubeconfig, digest="1" * 64)
    (Path(environment["DAGSTER_HOME"]) / "dagster.yaml").write_text(text, encoding="utf-8")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    for process in server.running.values():
        process.kill()
        process.wait()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_each_segment_runs_in_a_pod_and_the_run_is_one(
    environment: dict[str, str], cluster: _Cluster, project: Path
) -> None:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "maestro_dagster.definitions"]
    done = subprocess.run(
        [*command, "-j", "podded"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    # `left` and `right` could run at once; a run is held by one process at a time, so one waits.
    assert len(cluster.running) == 4
    (bundle,) = (project / ".maestro" / "evidence").glob("*.zip")
    from click.testing import CliRunner

    from maestro_dagster.cli.main import command as maestro

    key = project / ".maestro" / "keys" / "maestro.pub.pem"
    assert CliRunner().invoke(maestro, ["verify", str(bundle), "--key", str(key)]).exit_code == 0


def test_without_a_step_that_asks_nothing_changes(project: Path) -> None:
    import dagster as dg

    from maestro_dagster.translate.flow import build_flow_job

    plain = build_flow_job(project / "assets" / "hello.yaml", pods=True)
    asked = build_flow_job(project / "assets" / "podded.yaml", pods=True)
    told = build_flow_job(project / "assets" / "podded.yaml")
    assert plain.executor_def is dg.in_process_executor
    assert told.executor_def is dg.in_process_executor
    assert asked.executor_def.name == "k8s"
