"""`maestro policy`, in and outside of a project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.policy import REQUEST_FIELDS, command
from maestro_dagster.errors import UsageError

FLOW = """name: shown
version: 1.0.0
region: EU
{more}
tasks:
  - id: hello
    uses: pkg:text/template@1.0.0
    with: {{template: hi}}
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAESTRO_PROJECT", raising=False)
    return tmp_path


def write(folder: Path, more: str = "") -> str:
    path = folder / "flow.yaml"
    path.write_text(FLOW.format(more=more))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, standalone_mode=False)


def answer(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_an_allowed_flow(outside: Path) -> None:
    result = run("eval", write(outside), "--json")
    assert result.return_value == 0
    assert answer(result)["allow"] is True
    assert answer(result)["violations"] == []


def test_a_banned_region(outside: Path) -> None:
    result = run("eval", write(outside), "--request", "region=KP", "--json")
    assert result.return_value == 3
    found = answer(result)
    assert found["allow"] is False
    assert found["violations"] == [
        {
            "rule": "residency-banned",
            "pack": "residency",
            "step": "",
            "path": "",
            "message": "the request names the banned region KP (North Korea)",
            "remedy": "choose another region; the list stands in residency/data.json",
        }
    ]


def test_text_says_rule_step_and_remedy(outside: Path) -> None:
    result = run("eval", write(outside, "contains_pii: true\nretention_tier: long-1825d"))
    assert result.return_value == 3
    assert "pii-retention" in result.output
    assert "set retention_tier: short-30d" in result.output


def test_a_project_without_packs_denies(outside: Path, repository: Path) -> None:
    (outside / "pyproject.toml").write_text("[tool.maestro]\n")
    shutil.copytree(repository / "resources", outside / "resources")
    result = run("eval", write(outside), "--json")
    assert result.return_value == 3
    assert answer(result)["violations"][0]["rule"] == "policies-missing"


def test_the_shipped_packs_pass(outside: Path) -> None:
    result = run("test", "--json")
    assert result.return_value == 0
    assert answer(result)["failed"] == 0
    assert answer(result)["passed"] > 50


def test_one_pack_that_fails(outside: Path) -> None:
    (outside / "pyproject.toml").write_text("[tool.maestro]\n")
    pack = outside / "policies" / "one"
    pack.mkdir(parents=True)
    (pack / "one.rego").write_text("package maestro.one\n\nimport rego.v1\n\ndefault allow := false\n")
    (pack / "one_test.rego").write_text(
        "package maestro.one_test\n\nimport data.maestro.one\nimport rego.v1\n\ntest_allowed if one.allow\n"
    )
    result = run("test", "one")
    assert result.return_value == 1
    assert "FAILED one/one_test.rego: test_allowed" in result.output


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        (["bogus=1"], "region, actor, cause, partition, tenant, env"),
        (["regoin=EU"], "`region`"),
        (["region=EU", "region=KP"], "once"),
    ],
)
def test_a_fact_that_no_request_carries_is_refused(outside: Path, facts: list[str], remedy: str) -> None:
    given = [text for fact in facts for text in ("--request", fact)]
    error = run("eval", write(outside), *given).exception
    assert isinstance(error, UsageError)
    assert remedy in error.remedy


def test_the_facts_are_those_that_admission_tells(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maestro_dagster.policy import document

    seen: list[dict[str, Any]] = []
    build = document.build_document

    def watch(*arguments: Any, **named: Any) -> dict[str, Any]:
        seen.append(dict(named["request"]))
        return build(*arguments, **named)

    monkeypatch.setattr(document, "build_document", watch)
    run("eval", write(outside))
    assert tuple(name for name in seen[0] if name != "event") == REQUEST_FIELDS
    assert seen[0]["event"] is None, "nothing of a repository asked"
