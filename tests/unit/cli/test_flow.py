"""`maestro flow` and `maestro schema`: output for scripts, exit codes, speed, no heavy import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.flow import command
from maestro_dagster.cli.main import run_command
from maestro_dagster.cli.schema import command as schema_command

FLOW = """\
name: sample-flow
version: 1.0.0
on: [push]
tasks:
  - {id: fetch, uses: pkg:http/get@1.0.0, with: {url: "https://example.com"}}
  - {id: parse, uses: pkg:feed/parse@1.0.0, needs: [fetch]}
"""
HEAVY = ("dagster", "litellm", "duckdb", "polars", "pandas", "pyarrow", "aiohttp", "cryptography")


@pytest.fixture
def flow(tmp_path: Path) -> str:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW)
    return str(path)


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin)


def test_lint_is_clean(flow: str) -> None:
    done = call("lint", flow, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"diagnostics": []}


def test_lint_says_what_is_wrong_in_every_file(flow: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(FLOW.replace("needs: [fetch]", "needs: [fecth]"))
    done = call("lint", flow, str(bad), str(tmp_path / "none.yaml"), "--json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["diagnostics"]
    assert first == {
        "file": str(bad),
        "line": 6,
        "column": 53,
        "code": "unknown-need",
        "severity": "error",
        "message": "the step `parse` needs `fecth`, which is no step",
        "remedy": "Did you mean `fetch`?",
    }
    assert second["code"] == "file-unreadable"
    assert "2 errors" in call("lint", flow, str(bad), str(tmp_path / "none.yaml")).stdout


def test_a_warning_alone_is_no_failure() -> None:
    done = call(
        "lint", "-", "--json", stdin="name: abc\nsteps: [{id: a, uses: http, with: {url: 'https://x.org'}}]\n"
    )
    assert [each["code"] for each in json.loads(done.stdout)["diagnostics"]] == ["version-missing"]
    assert done.exit_code == 0


def test_digest_is_one_line_and_the_same_in_every_dialect(flow: str, tmp_path: Path) -> None:
    first = call("digest", flow).stdout
    assert first.startswith("sha256:")
    assert first.count("\n") == 1
    assert len(first.strip()) == len("sha256:") + 64
    for dialect in ("tasks", "steps", "nodes"):
        for options in ([], ["--json"]):
            text = call("convert", flow, "--to", dialect, *options).stdout
            assert call("digest", "-", stdin=text).stdout == first
    assert json.loads(call("digest", flow, "--json").stdout) == {"digest": first.strip()}


def test_show(flow: str) -> None:
    text = call("show", flow).stdout
    assert "sample-flow 1.0.0" in text
    assert "http/get" in text
    form = json.loads(call("show", flow, "--json").stdout)
    assert form["schema"] == "maestro.flow/v1"
    assert [task["id"] for task in form["tasks"]] == ["fetch", "parse"]


def test_graph(flow: str) -> None:
    assert call("graph", flow).stdout.startswith("flowchart LR\n")
    assert "n0 --> n1" in call("graph", flow).stdout
    assert '"fetch" -> "parse";' in call("graph", flow, "--dot").stdout
    picture = ET.fromstring(call("graph", flow, "--svg").stdout)  # noqa: S314 - we wrote it
    assert picture.tag.endswith("svg")
    assert json.loads(call("graph", flow, "--json").stdout)["edges"] == [{"from": "fetch", "to": "parse"}]


def test_a_broken_flow_is_a_coded_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cycle.yaml"
    path.write_text(FLOW.replace("with: {url", "needs: [parse], with: {url"))
    for name in ("digest", "show", "graph"):
        assert run_command(["flow", name, str(path), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "cycle"
    assert run_command(["flow", "convert", str(path), "--to", "steps"]) == 1
    assert "fetch -> parse -> fetch" in capsys.readouterr().err


def test_schema_is_the_committed_one(repository: Path) -> None:
    done = CliRunner().invoke(schema_command, [])
    assert done.stdout == (repository / "schemas" / "flow.v1.schema.json").read_text(encoding="utf-8")


def steps(count: int) -> str:
    lines = ["name: big-flow", "version: 1.0.0", "params: {topic: {default: AI}}", "tasks:"]
    for number in range(count):
        lines += [f"  - id: step-{number}", "    uses: pkg:text/template@1.0.0"]
        lines += [f"    needs: [step-{number - 1}]"] if number else []
        lines += ['    with: {template: "Of ${{ params.topic }}"}', "    retries: 2"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("count", "seconds"), [(100, 1.0), (10_000, 6.0)])
def test_lint_is_fast_and_light(tmp_path: Path, count: int, seconds: float) -> None:
    """CPU time, not wall time: others use this machine too. `make bench` measures the wall."""
    path = tmp_path / "big.yaml"
    path.write_text(steps(count))
    code = (
        "import sys, resource\n"
        "from maestro_dagster.cli.main import run_command\n"
        f"assert run_command(['flow', 'lint', {str(path)!r}]) == 0\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < seconds


def test_the_limit_of_steps() -> None:
    done = call("lint", "-", "--json", stdin=steps(10_001))
    assert [each["code"] for each in json.loads(done.stdout)["diagnostics"]] == ["too-many-steps"]


@pytest.mark.parametrize("forms", [["--json", "--svg"], ["--svg", "--dot"], ["--mermaid", "--json"]])
def test_a_graph_has_one_form(flow: str, capsys: pytest.CaptureFixture[str], forms: list[str]) -> None:
    assert run_command(["flow", "graph", flow, *forms]) == 2
    assert "one of --svg" in "".join(capsys.readouterr())


def test_the_page_on_flows_says_what_is_retried_and_its_secret_lints_clean(
    repository: Path, tmp_path: Path
) -> None:
    from maestro_dagster.engine.services import Limits
    from maestro_dagster.llm.wire import _RETRYABLE
    from maestro_dagster.steps.http_fetch import _TRANSIENT

    page = (repository / "docs" / "flow.md").read_text(encoding="utf-8")
    assert f"HTTP {', '.join(map(str, sorted(_TRANSIENT)))} |" in page
    assert f"answers {', '.join(map(str, sorted(_RETRYABLE)))} or 5xx" in page
    limits = Limits()
    assert f"at most {limits.backoff_first} seconds" in page
    assert f"never more than {limits.backoff_most:g}" in page
    (tasks,) = [part for part in page.split("```yaml\n")[1:] if part.startswith("tasks:")]
    path = tmp_path / "notify.yaml"
    path.write_text("name: notify\nversion: 1.0.0\n" + tasks.partition("```")[0])
    done = call("lint", str(path), "--json")
    assert json.loads(done.stdout) == {"diagnostics": []}


def test_the_page_on_flows_says_all_that_starts_one(repository: Path, tmp_path: Path) -> None:
    from maestro_dagster.manifest.expression import GIT_FIELDS
    from maestro_dagster.manifest.trigger import ACTIONS, CONCLUSIONS, EVENTS, FILTERS

    page = (repository / "docs" / "flow.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(EVENTS) <= set(rows)
    for name, events in FILTERS.items():
        assert {event for event in EVENTS if f"`{name}`" in rows[event]} == set(events), name
    words = {*CONCLUSIONS, *GIT_FIELDS, *(action for actions in ACTIONS.values() for action in actions)}
    assert [word for word in words if f"`{word}`" not in page] == []
    (triggers,) = [part for part in page.split("```yaml\n")[1:] if part.startswith("on:")]
    path = tmp_path / "triggers.yaml"
    tasks = "tasks:\n  - {id: parse, uses: pkg:feed/parse@1.0.0}\n"
    path.write_text("name: triggers\nversion: 1.0.0\n" + triggers.partition("```")[0] + tasks)
    assert json.loads(call("lint", str(path), "--json").stdout) == {"diagnostics": []}
