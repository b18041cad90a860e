"""The Dockerfile: what it promises of every build; with MAESTRO_IMAGE_BASE two real builds are compared.

A build takes minutes and gigabytes. The variable names a local image that has Python 3.11 and git, or the
Dockerfile's own base where that can be pulled.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from deploy_support import DIGEST, find_tool, run_tool

_NAME = re.compile(r"(?m)^([a-zA-Z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)")


@pytest.fixture(scope="module")
def dockerfile(deploy: Path) -> str:
    return (deploy / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_the_base_is_named_by_its_digest(dockerfile: str) -> None:
    (base,) = re.findall(r"(?m)^ARG BASE=(\S+)$", dockerfile)
    assert DIGEST.search(base)
    assert re.findall(r"(?m)^FROM (\S+)", dockerfile) == ["${BASE}", "base", "base"]


def test_the_last_user_is_not_root_and_has_a_number(dockerfile: str) -> None:
    assert re.findall(r"(?m)^USER (\S+)$", dockerfile.rpartition("FROM ")[2]) == ["10001:10001"]


def test_every_package_comes_by_its_hash(dockerfile: str, deploy: Path) -> None:
    for line in re.findall(r"pip (?:install|download) [^\n;]*", dockerfile):
        assert "--require-hashes" in line or "--no-index" in line, line
    lock = (deploy / "docker" / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=[a-zA-Z0-9])", lock)[1:]
    assert len(blocks) > 150
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_lock_of_the_image_is_that_of_development(deploy: Path, repository: Path) -> None:
    image = set(_NAME.findall((deploy / "docker" / "requirements.lock").read_text(encoding="utf-8")))
    everything = set(_NAME.findall((repository / "requirements-dev.lock").read_text(encoding="utf-8")))
    runtime = set(_NAME.findall((repository / "requirements.lock").read_text(encoding="utf-8")))
    assert runtime <= image <= everything
    assert {"dagster-postgres", "dagster-k8s", "s3fs"} <= {name for name, _ in image}
    assert not {"pytest", "moto", "mypy"} & {name for name, _ in image}


def test_the_wheel_finds_what_it_carries(dockerfile: str, repository: Path) -> None:
    """Else the build would fail only where somebody builds."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    build = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8")
    for folder in [*build["packages"], *build["force-include"]]:
        assert re.search(rf"(?m)^COPY {folder} \./{folder}$", dockerfile), folder
        assert f"!{folder}\n" in ignored, folder


def test_no_secret_gets_into_a_layer(dockerfile: str, repository: Path) -> None:
    assert not re.findall(r"(?im)^(?:ARG|ENV).*(?:password|token|secret|key)", dockerfile)
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*", "what is not named is not sent to the build"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_builds_are_the_same(repository: Path) -> None:
    base = os.environ.get("MAESTRO_IMAGE_BASE")
    if not base:
        pytest.skip("two builds take minutes: set MAESTRO_IMAGE_BASE to the image to build on")
    buildah = find_tool("buildah", "the Debian package buildah has it")
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    digests = []
    for number in (1, 2):
        command = [
            buildah, "bud", "--no-cache", "--layers=false", "--timestamp", "1700000000",
            "--build-arg", f"BASE={base}", "-v", f"{certificates}:{certificates}:ro",
            "-f", "deploy/docker/Dockerfile", "-t", f"localhost/maestro-test-{number}", ".",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        digests.append(
            run_tool(buildah, "images", "--digests", "--format", "{{.Digest}}", command[-2]).strip()
        )
    assert digests[0] == digests[1]
