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

from maestro_dagster.database.migration import SCHEMA
from maestro_dagster.project.settings import Settings, variable

FILES = ("compose.yaml", "compose.cage.yaml")
_OPERATOR = re.compile(r"\$\{(\w+)(?::[?-]([^}]*))?\}")
_ADDRESS = re.compile(
    r"MAESTRO_DATABASE=postgresql://(?P<role>\w+):(?P<password>\w+)@postgres:5432/(?P<name>\w+)\n"
)
# Not settings: what the operator gives to compose itself.
_CALLER = {
    "MAESTRO_IMAGE", "MAESTRO_PROJECT_FOLDER", "MAESTRO_KEYS_FOLDER", "MAESTRO_SECRETS_FOLDER",
    "MAESTRO_BACKUPS_FOLDER", "MAESTRO_ENV",
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
                assert re.search(r"\$\{|/run/secrets/|secrets: \[", line), line


def test_secrets_of_a_read_only_root_are_files(compose: dict[str, Any]) -> None:
    """Compose copies any other secret or config into the root, which a read-only one refuses."""
    for kind in ("secrets", "configs"):
        for name, service in compose["services"].items():
            for used in service.get(kind, ()):
                source = used["source"] if isinstance(used, dict) else used
                if service.get("read_only"):
                    assert set(compose[kind][source]) == {"file"}, f"{name}: {source}"
                # A file is mounted as it lies there; compose ignores these, and says so.
                assert not isinstance(used, dict) or not {"uid", "gid", "mode"} & set(used), name


def test_secrets_are_made_once_and_fit_together(
    deploy: Path, compose: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    program = deploy / "compose" / "make-secrets.sh"
    run_tool("sh", program, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    # In a folder that nobody else may enter, a file that every user of a container may read.
    for secret in compose["secrets"].values():
        path = folder / Path(secret["file"]).name
        assert path.stat().st_mode & 0o777 == 0o444
        assert re.fullmatch(r"[0-9a-f]{48}", path.read_text(encoding="utf-8"))
    settings = folder / "maestro.env"
    assert settings.stat().st_mode & 0o777 == 0o600
    address = _ADDRESS.search(settings.read_text(encoding="utf-8"))
    assert address is not None
    postgres = compose["services"]["postgres"]["environment"]
    assert address["password"] == (folder / "database_password").read_text(encoding="utf-8")
    assert (address["role"], address["name"]) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
    for name in ("maestro", "migrate"):
        (source,) = compose["services"][name]["env_file"]
        assert Path(source).name == settings.name
    assert run_tool("git", "-c", "init.defaultBranch=main", "init", "--quiet", tmp_path) == ""
    assert run_tool("git", "status", "--short", cwd=tmp_path) == ""

    before = settings.read_text(encoding="utf-8")
    with pytest.raises(AssertionError, match="is there already"):
        run_tool("sh", program, folder)
    assert settings.read_text(encoding="utf-8") == before


def test_a_backup_has_a_place_that_can_be_written(deploy: Path, compose: dict[str, Any]) -> None:
    """A new volume belongs to whom the folder of the image belongs to."""
    mounted = [volume for volume in compose["services"]["maestro"]["volumes"] if volume.endswith(":/backups")]
    assert mounted == ["${MAESTRO_BACKUPS_FOLDER:-backups}:/backups"]
    assert "backups" in compose["volumes"]
    dockerfile = (deploy / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"mkdir -p [^;]*/backups; chown 10001:10001 [^;\n]*/backups", dockerfile)


@pytest.mark.parametrize(
    "name", ["compose/compose.yaml", "compose/make-secrets.sh", "helm/dagster-values.yaml"]
)
def test_no_role_is_called_as_the_schema(deploy: Path, name: str) -> None:
    """Else `"$user"` in PostgreSQL's search path leads to our schema, and not to `public`."""
    found = re.findall(
        r"(?:POSTGRES_USER: |postgresqlUsername: |-U, |postgresql://)(\w+)",
        (deploy / name).read_text(encoding="utf-8"),
    )
    assert found
    assert set(found) == {"maestro_app"} != {SCHEMA}


def test_what_has_no_default_is_asked_for(deploy: Path) -> None:
    text = (deploy / "compose" / "compose.yaml").read_text(encoding="utf-8")
    found = {match[1]: match[2] for match in _OPERATOR.finditer(text)}
    assert set(found) == _CALLER
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
