"""The chart: rendered by Helm's own library, judged by the schemas of Kubernetes, and by what we promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from deploy_support import DIGEST, read_yaml, run_tool

from maestro_dagster.project.settings import Settings, variable

Render = Callable[[dict[str, Any]], list[dict[str, Any]]]
VERSIONS = ("1.29", "1.33", "1.37")  # the oldest that the chart allows, the first with the cage, the newest
_IMAGE = {"repository": "registry.example.org/acme/maestro", "digest": "sha256:" + "1" * 64}
_STORES = {"artifacts": "s3://acme/artifacts", "evidence": "s3://proof/evidence", "lake": "s3://acme/lake"}
PLAIN: dict[str, Any] = {"image": _IMAGE, "stores": _STORES}
FULL: dict[str, Any] = {
    **PLAIN,
    "image": {**_IMAGE, "pullSecrets": ["registry"]},
    "replicas": 3,
    "secrets": {"environment": ["maestro-forges"]},
    "settings": {"MAESTRO_TENANT": "acme", "MAESTRO_OTLP_ENDPOINT": "http://collector.watch:4318"},
    "serverHosts": ["ci.example.org"],
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/maestro"}},
    "home": {"size": "20Gi", "storageClass": "fast"},
    "cage": {"enabled": True},
    "ingress": {"enabled": True, "className": "nginx", "host": "hooks.example.org", "tlsSecret": "hooks-tls"},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    "backup": {
        "enabled": True,
        "target": "s3://acme-backups/shop",
        "leaveOut": ["lake"],
        "passphrase": {"name": "maestro-backup", "key": "passphrase"},
    },
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "ci", "operator": "Exists"}],
}
RESTORE: dict[str, Any] = {
    **PLAIN,
    "replicas": 0,
    "restore": {"target": "s3://acme-backups/shop", "backup": "20260131T040000000Z-1a2b3c", "check": True},
}
_CUSTOM = {"PodMonitor", "PrometheusRule"}  # of the Prometheus operator: no schema of Kubernetes


@pytest.fixture(scope="module")
def helm() -> str:
    """A Python that has helm-python-sdk."""
    if command := os.environ.get("MAESTRO_HELM_PYTHON"):
        return command
    pytest.skip("no Helm: set MAESTRO_HELM_PYTHON to a Python with the package helm-python-sdk")


def _render(helm: str, chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    program = Path(__file__).with_name("render.py")
    done = subprocess.run(
        [helm, str(program), str(chart)],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=["plain", "full", "restore"])
def manifests(request: pytest.FixtureRequest, helm: str, deploy: Path) -> list[dict[str, Any]]:
    values = {"plain": PLAIN, "full": FULL, "restore": RESTORE}[request.param]
    found = _render(helm, deploy / "helm" / "maestro", values)
    assert not found["lint"]["errors"]
    return [document for text in found["files"].values() for document in read_yaml(text)]


@pytest.fixture(scope="module")
def full(helm: str, deploy: Path) -> dict[str, dict[str, Any]]:
    """By kind; of each there is one."""
    files = _render(helm, deploy / "helm" / "maestro", FULL)["files"]
    found = [document for text in files.values() for document in read_yaml(text)]
    return {document["kind"]: document for document in found}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(manifests: list[dict[str, Any]], version: str) -> None:
    import kubernetes_validate

    if version == "1.29" and any(_has_cage(document) for document in manifests):
        pytest.skip("the cage needs Kubernetes 1.33")
    checked = [document for document in manifests if document["kind"] not in _CUSTOM]
    assert {"StatefulSet", "Service", "Job", "NetworkPolicy"} <= {document["kind"] for document in checked}
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


def _has_cage(document: dict[str, Any]) -> bool:
    return document["kind"] == "StatefulSet" and "hostUsers" in document["spec"]["template"]["spec"]


def _pods(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in manifests:
        if document["kind"] in {"StatefulSet", "Job"}:
            yield document["spec"]["template"]["spec"]
        if document["kind"] == "CronJob":
            yield document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def test_every_container_is_locked_down(manifests: list[dict[str, Any]]) -> None:
    for pod in _pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsUser"] == 10001
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            security = container["securityContext"]
            assert DIGEST.search(container["image"])
            assert security["readOnlyRootFilesystem"]
            assert security["runAsNonRoot"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert security["seccompProfile"]["type"] == (
                "Unconfined" if "procMount" in security else "RuntimeDefault"
            )
            # Kubernetes takes an unmasked /proc in a user namespace only.
            assert "procMount" not in security or pod["hostUsers"] is False


def test_a_container_without_seccomp_is_in_a_user_namespace(full: dict[str, dict[str, Any]]) -> None:
    pod = full["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    assert pod["hostUsers"] is False


def test_secrets_are_named_never_held(manifests: list[dict[str, Any]]) -> None:
    assert not [document for document in manifests if document["kind"] == "Secret"]
    for pod in _pods(manifests):
        for container in pod["containers"]:
            named = {entry["name"]: entry for entry in container["env"]}
            assert named["MAESTRO_DATABASE"]["valueFrom"]["secretKeyRef"] == {
                "name": "maestro-database",
                "key": "url",
            }
            secrets = [entry for name, entry in named.items() if name.startswith("MAESTRO_SECRET_")]
            assert all(set(entry["valueFrom"]) == {"secretKeyRef"} for entry in secrets)


def test_variables_are_settings_that_exist(full: dict[str, dict[str, Any]]) -> None:
    known = {variable(item.name) for item in fields(Settings)}
    container = full["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
    assert {entry["name"] for entry in container["env"]} <= known
    assert container["envFrom"] == [{"secretRef": {"name": "maestro-forges"}}]


def test_the_internet_reaches_webhooks_only(full: dict[str, dict[str, Any]]) -> None:
    (rule,) = full["Ingress"]["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/webhooks/"]
    assert full["Ingress"]["spec"]["tls"] == [{"hosts": ["hooks.example.org"], "secretName": "hooks-tls"}]
    egress = full["NetworkPolicy"]["spec"]["egress"]
    assert egress[-1]["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]


def test_a_backup_has_the_records_the_stores_and_the_key(full: dict[str, dict[str, Any]]) -> None:
    assert full["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    pod = full["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == full["ServiceAccount"]["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["args"] == ["backup", "s3://acme-backups/shop", "--json", "--leave-out", "lake"]
    loop = full["StatefulSet"]["spec"]["template"]["spec"]
    named = {entry["name"]: entry for entry in container["env"]}
    passphrase = named.pop("MAESTRO_SECRET_BACKUP_PASSPHRASE")["valueFrom"]["secretKeyRef"]
    assert passphrase == {"name": "maestro-backup", "key": "passphrase"}
    assert list(named.values()) == loop["containers"][0]["env"]
    assert container["envFrom"] == loop["containers"][0]["envFrom"]
    assert container["volumeMounts"] == loop["containers"][0]["volumeMounts"]
    assert pod["initContainers"] == loop["initContainers"]
    assert {mount["name"] for mount in container["volumeMounts"]} < {each["name"] for each in pod["volumes"]}
    assert pod["nodeSelector"] == loop["nodeSelector"]


def test_no_backup_and_no_restore_unless_asked_for(helm: str, deploy: Path) -> None:
    files = _render(helm, deploy / "helm" / "maestro", PLAIN)["files"]
    names = {
        document["metadata"]["name"]
        for text in files.values()
        for document in read_yaml(text)
        if document["kind"] in {"CronJob", "Job"}
    }
    assert names == {"maestro-migrate"}


def test_a_restore_is_one_try_while_nobody_works(helm: str, deploy: Path) -> None:
    files = _render(helm, deploy / "helm" / "maestro", RESTORE)["files"]
    found = {
        (document["kind"], document["metadata"]["name"]): document["spec"]
        for text in files.values()
        for document in read_yaml(text)
        if "spec" in document
    }
    assert found["StatefulSet", "maestro"]["replicas"] == 0
    (job,) = [spec for (kind, name), spec in found.items() if (kind, name[:15]) == ("Job", "maestro-restore")]
    assert job["backoffLimit"] == 0
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == [
        "restore", "s3://acme-backups/shop", "--json", "--backup", "20260131T040000000Z-1a2b3c", "--check",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "excepts", "left"),
    [
        ("0.0.0.0/0", ["169.254.0.0/16", "10.0.0.0/8"], ["169.254.0.0/16", "10.0.0.0/8"]),
        ("10.0.0.0/8", ["169.254.0.0/16"], None),
        ("10.0.0.0/8", ["10.1.0.0/16", "11.0.0.0/16"], ["10.1.0.0/16"]),
        ("10.0.0.0/8", ["10.0.0.0/8", "0.0.0.0/0"], None),
        ("192.168.128.0/17", ["192.168.127.0/24", "192.168.200.7/32"], ["192.168.200.7/32"]),
        ("::/0", ["169.254.0.0/16", "fd00:ec2::/32"], ["fd00:ec2::/32"]),
        ("fd00::/8", ["169.254.0.0/16"], None),
    ],
)
def test_a_block_has_the_excepts_that_lie_inside(
    helm: str, deploy: Path, block: str, excepts: list[str], left: list[str] | None
) -> None:
    """Kubernetes takes a policy only where each except is a strict part of its block."""
    values = {**PLAIN, "networkPolicy": {"egressCidrs": [block], "egressExcept": excepts}}
    files = _render(helm, deploy / "helm" / "maestro", values)["files"]
    (policy,) = [
        document
        for text in files.values()
        for document in read_yaml(text)
        if document["kind"] == "NetworkPolicy"
    ]
    found = policy["spec"]["egress"][-1]["to"][0]["ipBlock"]
    assert found == {"cidr": block, **({"except": left} if left else {})}


def test_nobody_comes_in_where_nobody_was_named(helm: str, deploy: Path) -> None:
    files = _render(helm, deploy / "helm" / "maestro", PLAIN)["files"]
    (policy,) = [
        document
        for text in files.values()
        for document in read_yaml(text)
        if document["kind"] == "NetworkPolicy"
    ]
    assert policy["spec"]["ingress"] == []
    assert "Ingress" in policy["spec"]["policyTypes"]


def test_rules_and_dashboards_are_those_of_the_other_folders(
    full: dict[str, dict[str, Any]], deploy: Path, promtool: str, tmp_path: Path
) -> None:
    groups = [
        group
        for name in ("rules.yaml", "alerts.yaml")
        for group in read_yaml((deploy / "prometheus" / name).read_text(encoding="utf-8"))[0]["groups"]
    ]
    assert [group["name"] for group in full["PrometheusRule"]["spec"]["groups"]] == [
        group["name"] for group in groups
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(full["PrometheusRule"]["spec"]), encoding="utf-8")
    run_tool(promtool, "check", "rules", path)
    boards = {board.name: board.read_text("utf-8") for board in (deploy / "grafana" / "dashboards").iterdir()}
    assert full["ConfigMap"]["data"] == boards
    assert full["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": {**_IMAGE, "digest": "latest"}}, "digest"),
        ({"image": {"repository": "a/b"}}, "digest"),
        ({"stores": {**_STORES, "evidence": ""}}, "evidence"),
        ({"replicaCount": 2}, "replicaCount"),
        ({"settings": {"MAESTRO_DATABASE": "postgresql://me:secret@db/maestro"}}, "MAESTRO_DATABASE"),
        ({"settings": {"MAESTRO_SECRET_FORGE": "secret"}}, "MAESTRO_SECRET_FORGE"),
        ({"ingress": {"enabled": True, "host": "a.example.org"}}, "TLS only"),
        ({"backup": {"enabled": True}}, "backup.target"),
        ({"backup": {"enabled": True, "target": "/mnt/backups"}}, "target"),
        ({"backup": {"passphrase": {"name": "maestro-backup"}}}, "key"),
        ({"restore": {"target": "s3://acme-backups/shop"}}, "replicas: 0"),
        ({"networkPolicy": {"egressCidrs": ["internet"]}}, "egressCidrs"),
        ({"networkPolicy": {"egressCidrs": ["fd00::/8"], "egressExcept": ["fd00:ec2::/32"]}}, "::/0"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    helm: str, deploy: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        _render(helm, deploy / "helm" / "maestro", {**PLAIN, **change})
