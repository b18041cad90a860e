"""Who asked for a run: named in words by `--as`, written as a surrogate wherever it stays."""

from __future__ import annotations

import base64
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.main import command
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import UsageError
from maestro_dagster.project.removal import open_subjects
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project

FLOW = """\
name: notes
version: 1.0.0
tasks:
  - {id: text, uses: "pkg:text/template@1.0.0", with: {template: hello}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = init_project(tmp_path / "shop").root
    (root / "notes.yaml").write_text(FLOW, encoding="utf-8")
    monkeypatch.setenv("MAESTRO_PROJECT", str(root))
    monkeypatch.delenv("MAESTRO_ACTOR", raising=False)
    return find_project(root)


def call(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["run", str(project.root / "notes.yaml"), "--json", *arguments])


def run(project: Project, *arguments: str) -> tuple[set[str], str]:
    """(subjects of the run's usage, all text in its bundle)."""
    result = call(project, *arguments)
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    with zipfile.ZipFile(value["evidence"]) as bundle:
        text = "\n".join(bundle.read(name).decode(errors="replace") for name in bundle.namelist())
    payloads = re.findall(r'"payload": ?"([A-Za-z0-9+/=]+)"', text)
    assert payloads
    text += "".join(base64.b64decode(payload).decode() for payload in payloads)
    return {event.subject for event in Spool(project.spool).read_run(value["run_id"])}, text


def test_usage_and_evidence_name_a_person_by_the_surrogate_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, text = run(project, "--as", "Zuleika Quattrocchi <ZQ@Quattrocchi.example>")
    (surrogate,) = who
    assert open_subjects(project).reveal(surrogate) == "zq@quattrocchi.example"
    assert surrogate in text
    assert not re.search("zuleika|quattrocchi", text, re.IGNORECASE)
    monkeypatch.setenv("MAESTRO_ACTOR", "zq@quattrocchi.example")
    assert run(project)[0] == who
    assert run(project, "--as", "bob")[0] != who


@pytest.mark.parametrize("person", ["", "  ", "a\nb", "\udcff"])
def test_who_names_nobody_runs_nothing(project: Project, person: str) -> None:
    result = call(project, "--as", person)
    assert isinstance(result.exception, UsageError)
    assert not Spool(project.spool).days()
