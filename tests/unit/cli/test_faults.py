"""What goes wrong around a command: keys, full disks, closed outputs, bytes that are no text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.project.check import check_project
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_project(tmp_path_factory.mktemp("faults") / "shop").root


@pytest.fixture
def shop(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(pristine, tmp_path / "shop"))
    monkeypatch.chdir(folder)
    return folder


def spawn(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which `maestro` is this one."""
    line = f'maestro() {{ "{sys.executable}" -m maestro_dagster "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run_command([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda key: key.unlink(), "key-missing"),
        (lambda key: key.chmod(0o644), "key-exposed"),
        (lambda key: key.write_text("garbage"), "key-unusable"),
    ],
)
def test_a_key_is_asked_for_before_the_run_is(
    shop: Path, capsys: pytest.CaptureFixture[str], spoil: Any, expected: str
) -> None:
    spoil(shop / ".maestro/keys/maestro.pem")
    code, said = call(capsys, "run", "hello")
    assert (code, said["error"]["code"]) == (2, expected)
    assert call(capsys, "status") == (0, {"runs": []})
    found = {finding.check: finding for finding in check_project(open_project(shop))}["key"]
    assert found.status == "error"
    assert ("chmod" if expected == "key-exposed" else "maestro init .") in found.remedy


def test_init_says_that_it_made_only_the_key(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / ".maestro/keys/maestro.pem").unlink()
    code, said = call(capsys, "init", ".")
    assert (code, said["made"]) == (0, "key")
    assert call(capsys, "init", ".")[1]["error"]["code"] == "key-exists"


def test_the_next_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "sp ace"]) == 0
    assert "cd 'sp ace' && maestro run hello" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, said = call(capsys, "init", "")
    assert (code, said["error"]["code"]) == (2, "usage")
    assert not list(Path().iterdir())
