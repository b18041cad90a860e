"""The recipe on a real project, a real repository and the real engine, without Dagster around it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.manifest.graph import topological_order
from maestro_dagster.manifest.read import read_flow
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_services

RECIPE = "recipes/python-release"
STEPS = ("checkout", "plan", "gen", "test", "build", "sbom", "scan", "sign", "publish", "deploy")

pytestmark = pytest.mark.slow


@dataclass
class Shop:
    """A project with the recipe, and a repository with its example package."""

    root: Path
    repository: Path
    engine: Engine
    runs: int = 0

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.repository, check=True, capture_output=True, text=True
        ).stdout.strip()

    def push(self, message: str) -> str:
        """Commits everything and runs the flow on it; returns the run's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.runs += 1
        run_id = f"run-{self.runs}"
        flow = read_flow(self.root / "assets" / "python-release.yaml")
        git = {
            "repository": str(self.repository),
            "sha": self.git("rev-parse", "HEAD"),
            "ref": "refs/heads/main",
            "branch": "main",
            "before": "0" * 40,
            "event_id": run_id,
        }
        self.engine.request(RunRequest(run_id=run_id, flow=flow, git=git, cause="push"))
        decision = self.engine.admit(run_id)
        assert decision.allow, decision
        list(self.engine.stream_segment(run_id, topological_order(flow)))
        self.bundle = self.engine.close(run_id)
        return run_id

    def outcome(self, run_id: str, step: str) -> Any:
        outcome = self.engine.outcome(run_id, step)
        assert outcome is not None
        return outcome


@pytest.fixture
def shop(tmp_path: Path, repository: Path) -> Iterator[Shop]:
    init_project(tmp_path / "shop")
    package = tmp_path / "package"
    shutil.copytree(repository / RECIPE / "fixtures" / "greeting-card", package)
    services = open_services(open_project(tmp_path / "shop"))
    shop = Shop(tmp_path / "shop", package, Engine(services))
    shop.git("init", "--quiet", "--initial-branch=main")
    yield shop
    services.policy.close()


def test_a_commit_becomes_a_deployed_release(shop: Shop, repository: Path) -> None:
    expected = json.loads((repository / RECIPE / "expected" / "release.json").read_text())
    started = time.monotonic()
    run_id = shop.push("feat: greet people")
    outcomes = {step: shop.outcome(run_id, step) for step in STEPS}
    assert {step: outcome.status for step, outcome in outcomes.items()} == dict.fromkeys(STEPS, "done")
    assert time.monotonic() - started < 100
    assert outcomes["test"].facts["tests"] == expected["tests"]
    folder = shop.root / "published" / "files" / expected["name"] / expected["version"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected["files"] + expected["beside"])
    script = shop.root / "deployed" / "current" / "bin" / "greeting-card"
    said = subprocess.run([script, "Ada"], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == expected["says"]
    with zipfile.ZipFile(shop.bundle) as bundle:
        names = bundle.namelist()
    assert sum(name.endswith(".sigstore.json") and "greeting_card" in name for name in names) == 2, names


def test_a_vulnerable_dependency_is_not_published(shop: Shop) -> None:
    project = shop.repository / "pyproject.toml"
    text = project.read_text().replace("dependencies = []", 'dependencies = ["leaky-teapot==1.0.0"]')
    project.write_text(text)
    run_id = shop.push("feat: tea")
    scan = shop.outcome(run_id, "scan")
    assert scan.status == "failed"
    assert scan.error["code"] == "vulnerable"
    assert "leaky-teapot 1.0.0 is named by EXAMPLE-2024-0001" in scan.error["fact"]
    assert "1.2.0" in scan.error["remedy"]
    for step in ("sign", "publish", "deploy"):
        assert shop.outcome(run_id, step).status == "skipped"
    assert not (shop.root / "published").exists()
    assert not (shop.root / "deployed").exists()


HOSTILE = """
import glob, os, socket

def hunt():
    found = []
    for top, folders, files in os.walk("/"):
        if top == "/":
            folders[:] = [name for name in folders if name not in ("usr", "proc")]
        for name in files:
            path = os.path.join(top, name)
            if "/lib/python3." in path:
                continue  # Python's own tests come with keys of their own
            if "maestro.pem" in name or "journal" in name or ".maestro" in path.split("/")[:-1]:
                found.append(path)
            try:
                with open(path, "rb") as file:
                    if b"PRIVATE " + b"KEY-----" in file.read(1 << 20):
                        found.append(path)
            except OSError:
                pass
    return found

def test_hunt():
    assert hunt() == []

def test_network():
    for address in (("127.0.0.1", 22), ("192.0.2.1", 80), ("169.254.169.254", 80)):
        with socket.socket() as client:
            client.settimeout(1)
            assert client.connect_ex(address) != 0

def test_processes():
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        assert b"dagster" not in open(path, "rb").read()
    assert len(glob.glob("/proc/[0-9]*")) < 5

def test_write():
    for path in ("/tools/x", "/usr/x", "/etc/x", "/x"):
        try:
            open(path, "w")
        except OSError:
            continue
        raise AssertionError(path)
"""


def test_a_hostile_test_finds_nothing_and_its_evidence_verifies(shop: Shop) -> None:
    (shop.repository / "tests" / "test_hostile.py").write_text(HOSTILE)
    run_id = shop.push("test: look around")
    test = shop.outcome(run_id, "test")
    assert test.status == "done", test.error
    assert test.facts["tests"] == 8
    from maestro_dagster.evidence.verify import verify_bundle

    key = (shop.root / ".maestro" / "keys" / "maestro.pub.pem").read_bytes()
    report = verify_bundle(shop.bundle.read_bytes(), [key])
    assert report.ok, report.problems
