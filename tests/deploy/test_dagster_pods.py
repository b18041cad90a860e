"""The values for Dagster's own chart, as far as they end in pods: launched by dagster_k8s against a server
that takes the Job as Kubernetes would, and judged by the schemas of Kubernetes.

The chart itself is not rendered: it is in no place that an ordinary client of a package registry reaches.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from deploy_support import DIGEST, read_yaml

pytestmark = pytest.mark.slow
_CAMEL = {  # how the chart writes its values into dagster.yaml
    "imagePullPolicy": "image_pull_policy",
    "loadInclusterConfig": "load_incluster_config",
    "envConfigMaps": "env_config_maps",
    "envSecrets": "env_secrets",
    "envVars": "env_vars",
    "volumes": "volumes",
    "volumeMounts": "volume_mounts",
    "failPodOnRunFailure": "fail_pod_on_run_failure",
    "resources": "resources",
    "securityContext": "security_context",
}
_RUN_CONFIG = {
    "containerConfig": "container_config",
    "podSpecConfig": "pod_spec_config",
    "jobSpecConfig": "job_spec_config",
}


@pytest.fixture(scope="module")
def values(deploy: Path) -> dict[str, Any]:
    text = (deploy / "helm" / "dagster-values.yaml").read_text(encoding="utf-8")
    text = text.replace("VERSION", "0.1.0").replace("DIGEST", "1" * 64)
    (document,) = read_yaml(text.replace("REPOSITORY", "registry.example.org/acme/maestro"))
    found: dict[str, Any] = document
    return found


@pytest.fixture(scope="module")
def launcher(values: dict[str, Any]) -> dict[str, Any]:
    """The launcher's configuration in dagster.yaml; an unknown value is a KeyError."""
    given = dict(values["runLauncher"]["config"]["k8sRunLauncher"])
    run = given.pop("runK8sConfig")
    return {
        **{_CAMEL[name]: value for name, value in given.items()},
        "run_k8s_config": {_RUN_CONFIG[name]: value for name, value in run.items()},
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "dagster_home": values["global"]["dagsterHome"],
        "job_namespace": "ci",
    }


class _Jobs(HTTPServer):
    """The part of the Kubernetes API that a launcher speaks to; `created` are the Jobs it was sent."""

    created: list[dict[str, Any]]


class _Api(BaseHTTPRequestHandler):
    server: _Jobs

    def do_GET(self) -> None:
        self._answer(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        right = self.path.partition("?")[0] == "/apis/batch/v1/namespaces/ci/jobs"
        if right:
            self.server.created.append(body)
        self._answer(201 if right else 404, body)

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def kubernetes_api() -> Iterator[_Jobs]:
    server = _Jobs(("127.0.0.1", 0), _Api)
    server.created = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="module")
def job(
    values: dict[str, Any],
    launcher: dict[str, Any],
    kubernetes_api: _Jobs,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What Kubernetes is asked for when Dagster launches a run of our code location."""
    import dagster as dg
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.launcher import LaunchRunContext
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._core.test_utils import create_run_for_test

    folder = tmp_path_factory.mktemp("dagster")
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(kubernetes_api.server_port)), encoding="utf-8")
    config = {**launcher, "load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    overrides = {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config},
        "telemetry": {"enabled": False},
    }
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    image = deployment["image"]
    origin = RepositoryPythonOrigin(
        sys.executable,
        ModuleCodePointer("maestro_dagster.definitions", "defs", None),
        container_image=f"{image['repository']}:{image['tag']}",
        container_context={"k8s": _launched_config(deployment)},
    )
    with dg.DagsterInstance.local_temp(str(folder), overrides=overrides) as instance:
        run = create_run_for_test(
            instance, job_name="hello", job_code_origin=JobPythonOrigin("hello", origin)
        )
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
    (made,) = kubernetes_api.created
    return made


def _kubeconfig(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }


def _launched_config(deployment: dict[str, Any]) -> dict[str, Any]:
    """What the chart hands on to runs with `includeConfigInLaunchedRuns`."""
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    return {
        "image_pull_policy": deployment["image"]["pullPolicy"],
        "env_config_maps": [entry["name"] for entry in deployment["envConfigMaps"]],
        "env": deployment["env"],
        "volumes": deployment["volumes"],
        "volume_mounts": deployment["volumeMounts"],
    }


def test_kubernetes_accepts_the_job_of_a_run(job: dict[str, Any]) -> None:
    import kubernetes_validate

    for version in ("1.29", "1.37"):
        kubernetes_validate.validate(job, version, strict=True)


def test_the_run_is_locked_down_as_the_loop_is(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    for container in [*pod["containers"], *pod["initContainers"]]:
        assert DIGEST.search(container["image"])
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["runAsNonRoot"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]


def test_the_run_finds_database_stores_and_key(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables["MAESTRO_DATABASE"]["valueFrom"]["secretKeyRef"]["name"] == "maestro-database"
    assert variables["MAESTRO_PROJECT"]["value"] == "/project"
    assert {"configMapRef": {"name": "maestro-stores"}} in container["envFrom"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (key,) = pod["initContainers"]
    assert mounts["/state"] in {mount["name"] for mount in key["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {"state", "tmp", "secret"} <= volumes
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert {mount["name"] for mount in key["volumeMounts"]} <= volumes


def test_everything_runs_the_same_image(values: dict[str, Any]) -> None:
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["image"] == values["dagsterDaemon"]["image"] == values["dagsterWebserver"]["image"]
    assert DIGEST.search(deployment["image"]["tag"])


def test_the_ui_is_behind_our_gate_only(values: dict[str, Any]) -> None:
    assert values["dagsterWebserver"]["replicaCount"] == 0
    assert values["ingress"]["enabled"] is False


def test_no_password_stands_in_the_values(values: dict[str, Any]) -> None:
    assert "postgresqlPassword" not in values["postgresql"]
    assert values["generatePostgresqlPasswordSecret"] is False
