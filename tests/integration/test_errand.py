"""What the chart's CronJob and Job do: a backup, and a restore, from homes that hold nothing but the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.project.scaffold import init_project

pytestmark = pytest.mark.slow
_FLOW = """\
name: greet
version: 1.0.0
tasks:
  - {id: hello, uses: "pkg:text/template@1.0.0", with: {template: hello}}
"""


def test_records_and_stores_go_through_homes_that_are_empty(
    tmp_path: Path,
    s3_bucket: str,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = init_project(tmp_path / "shop").root
    (root / "assets" / "greet.yaml").write_text(_FLOW)
    monkeypatch.chdir(root)

    def move(name: str, *, stores: str) -> None:
        """To a home with the key alone, on a machine of its own."""
        home = tmp_path / name
        home.mkdir()
        shutil.copytree(root / ".maestro" / "keys", home / "keys")
        monkeypatch.setenv("MAESTRO_HOME", str(home))
        monkeypatch.setenv("MAESTRO_DATABASE", databases[stores])
        for setting in ("ARTIFACT_STORE", "EVIDENCE", "LAKE"):
            monkeypatch.setenv(f"MAESTRO_{setting}", f"{s3_bucket}/{stores}/{setting.lower()}")

    databases = {"old": new_database(), "new": new_database()}
    move("loop", stores="old")
    assert run_command(["migrate", "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert run_command(["run", "greet", "--json"]) == 0, capsys.readouterr()
    run_id = json.loads(capsys.readouterr().out)["run_id"]

    move("backup", stores="old")
    target = f"{s3_bucket}/backups/shop"
    assert run_command(["backup", target, "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()

    move("restore", stores="new")
    assert run_command(["restore", target, "--check", "--json"]) == 0, capsys.readouterr()
    assert run_command(["restore", target, "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()

    move("after", stores="new")
    assert run_command(["status", run_id, "--json"]) == 0, capsys.readouterr()
    assert json.loads(capsys.readouterr().out)["status"] == "succeeded"
    assert run_command(["verify", f"{s3_bucket}/new/evidence/{run_id}.zip"]) == 0, capsys.readouterr()
