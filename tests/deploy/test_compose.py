"""The compose files: the Compose specification's schema, and what we promise of every container.

The schema is the one that the npm package dclint carries (MIT; the schema is compose-spec's, Apache-2.0). It
is not copied here: `.ci/run` installs the package, and MAESTRO_NODE_MODULES says where.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from deploy_support import DIGEST, read_yaml, run_tool

from maestro_dagster.project.settings import Settings, variable

FILES = ("compose.yaml", "compose.cage.yaml")
_OPERATOR = re.compile(r"\$\{(\w+)(?::[?-]([^}]*))?\}")
# Not settings: what the operator gives to compose itself.
_CALLER = {
    "MAESTRO_IMAGE", "MAESTRO_PROJECT_FOLDER", "MAESTRO_KEYS_FOLDER", "MAESTRO_DATABASE_PASSWORD",
    "MAESTRO_GRAFANA_PASSWORD", "MAESTRO_ENV",
}  # fmt: skip


@pytest.fixture(scope="module")
def dclint() -> Path:
    folder = Path(os.environ.get("MAESTRO_NODE_MODULES", "node_modules")) / "dclint"
    if not folder.is_dir():
        pytest.skip("no dclint: npm install dclint@3, and set MAESTRO_NODE_MODULES to node_modules")
    return folder


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    (document,) = read_yaml((deploy / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", FILES)
def test_the_schema_accepts_it(deploy: Path, dclint: Path, name: str) -> None:
    from jsonschema import Draft7Validator

    schema = json.loads((dclint / "schemas" / "compose.schema.json").read_text(encoding="utf-8"))
    (document,) = read_yaml((deploy / "compose" / name).read_text(encoding="utf-8"))
    problems = [
        f"{'/'.join(map(str, error.path))}: {error.message}"
        for error in Draft7Validator(schema).iter_errors(document)
    ]
    assert not problems


def test_the_schema_refuses_what_is_no_compose_file(dclint: Path) -> None:
    from jsonschema import Draft7Validator

    schema = json.loads((dclint / "schemas" / "compose.schema.json").read_text(encoding="utf-8"))
    assert not Draft7Validator(schema).is_valid({"services": {"a": {"image": "a", "read_onyl": True}}})


@pytest.mark.parametrize("name", FILES)
def test_the_linter_finds_no_error(deploy: Path, dclint: Path, name: str) -> None:
    program = dclint / "bin" / "dclint.cjs"
    assert run_tool("node", program, "--quiet", deploy / "compose" / name).strip() == ""


def test_every_image_is_named_by_its_digest(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        image = service["image"]
        assert DIGEST.search(image) or image.startswith("${MAESTRO_IMAGE:?"), f"{name}: {image}"


def test_every_container_is_locked_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        user = str(service.get("user", "0")).split(":", maxsplit=1)[0]
        assert user.isdigit(), name
        assert user != "0", f"{name} is root"
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert "cap_add" not in service, name


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "prometheus", "tempo"):
        assert compose["services"][name]["networks"] == ["inside"], name


def test_no_secret_stands_in_a_file(deploy: Path) -> None:
    for name in FILES:
        text = (deploy / "compose" / name).read_text(encoding="utf-8")
        for line in text.splitlines():
            if re.search(r"(?i)(password|secret|token)\w*\s*[:=]\s*\S", line.split("#", maxsplit=1)[0]):
                assert re.search(r"\$\{|/run/secrets/|environment:|secrets: \[", line), line


def test_what_has_no_default_is_asked_for(deploy: Path) -> None:
    text = (deploy / "compose" / "compose.yaml").read_text(encoding="utf-8")
    found = {match[1]: match[2] for match in _OPERATOR.finditer(text)}
    assert set(found) | {"MAESTRO_GRAFANA_PASSWORD"} == _CALLER
    assert all(found.values()), f"neither a default nor a reason: {found}"


def test_maestro_is_configured_by_settings_that_exist(compose: dict[str, Any]) -> None:
    known = {variable(item.name) for item in fields(Settings)}
    assert set(compose["services"]["maestro"]["environment"]) <= known


def test_what_is_mounted_is_there(deploy: Path, compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":", maxsplit=1)[0]
            if source.startswith("."):
                assert (deploy / "compose" / source).exists(), volume
                assert volume.endswith(":ro"), volume
            elif not source.startswith("${"):
                assert source in compose["volumes"], volume


def test_prometheus_scrapes_the_name_that_the_server_knows(deploy: Path, compose: dict[str, Any]) -> None:
    (document,) = read_yaml((deploy / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    (target,) = document["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    service = compose["services"][host]
    assert service["environment"]["MAESTRO_SERVER_HOSTS"] == host
    assert service["command"][-1] == port
