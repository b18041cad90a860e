from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.cli.request import new_run_id, parse_params
from maestro_dagster.cli.run_view import STATUSES, first_line
from maestro_dagster.engine.journal import Journal
from maestro_dagster.errors import UsageError
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.scaffold import init_project

FLOW = """\
name: greet
version: 1.0.0
params:
  who: {type: string, default: world}
tasks:
  - id: hello
    uses: pkg:text/template@1.0.0
    with: {template: "hello ${{ params.who }}"}
"""
BROKEN = """\
name: broken
version: 1.0.0
tasks:
  - {id: a, uses: pkg:text/template@1.0.0, needs: [], with: {template: no json}}
  - {id: b, uses: pkg:json/query@1.0.0, needs: [a], with: {query: x}}
"""
SLOW = """\
name: slow
version: 1.0.0
tasks:
  - {id: wait, uses: pkg:shell/run@1.0.0, isolation: none, with: {argv: [sleep, "60"]}}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shop"
    init_project(folder)
    for name, text in (("greet", FLOW), ("broken", BROKEN), ("slow", SLOW)):
        (folder / "assets" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run_command([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_run_is_waited_for_shown_and_found_again(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, run = call(capsys, "run", "greet", "-p", "who=you", "--budget", "1usd")
    assert code == 0
    assert run["status"] == "succeeded"
    (step,) = run["steps"]
    assert set(step) >= {"id", "status", "attempts", "output_digest", "duration_ms", "cost_usd"}
    assert (step["id"], step["status"], step["attempts"]) == ("hello", "done", 1)
    assert Path(run["evidence"]).is_file()
    assert call(capsys, "status", run["run_id"]) == (0, run)
    code, listed = call(capsys, "status", "--flow", "greet")
    assert [each["run_id"] for each in listed["runs"]] == [run["run_id"]]
    assert call(capsys, "status", "--flow", "other")[1] == {"runs": []}
    assert run_command(["verify", run["evidence"]]) == 0
    assert run_command(["watch", run["run_id"]]) == 0
    assert "hello: done" in capsys.readouterr().out
    assert run_command(["status", "-e", run["run_id"]]) == 0
    assert "hello" in capsys.readouterr().out
    assert call(capsys, "retry", run["run_id"])[0] == 2


def test_runs_are_chosen_first_and_counted_then(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typing import get_args

    from maestro_dagster.cli.request import Typed, make_request
    from maestro_dagster.engine.interface import RunStatus
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    project = find_project()
    engine = open_engine(project)
    requests = [make_request(project, Typed(name)) for name in ("greet", "greet", "broken", "slow", "broken")]
    engine.request_many(requests)
    ids = [request.run_id for request in requests]
    engine.services.journal.start_run(ids[0])

    def listed(*arguments: str) -> list[str]:
        code, said = call(capsys, "status", *arguments)
        assert code == 0
        return [run["run_id"] for run in said["runs"]]

    assert listed("--flow", "greet", "--limit", "2") == [ids[1], ids[0]]
    assert listed("--flow", "greet", "--limit", "1") == [ids[1]]
    assert listed("--flow", "greet", "--limit", "1", "--status", "running") == [ids[0]]
    assert listed("--status", "requested", "--limit", "1") == [ids[4]]
    assert call(capsys, "status", "--status", "bogus")[0] == 2
    assert call(capsys, "status", ids[0], "--flow", "slow")[0] == 2
    assert set(STATUSES) == set(get_args(RunStatus))


def test_a_failed_run_exits_1_and_retry_takes_over_what_is_done(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, run = call(capsys, "run", "--template", "broken")
    assert code == 1
    assert run["status"] == "failed"
    assert run["error"]["remedy"]
    path = shop / "assets" / "broken.yaml"
    path.write_text(path.read_text())
    code, again = call(capsys, "retry", run["run_id"])
    assert code == 1
    assert again["run_id"] != run["run_id"]
    assert {step["id"]: step["status"] for step in again["steps"]} == {"a": "reused", "b": "failed"}


def test_plan_says_what_would_be_and_writes_nothing(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in shop.rglob("*"))
    code, plan = call(capsys, "plan", "-m", "greet")
    assert code == 0
    assert set(plan) == {"digest", "allow", "verdicts", "estimated_cost_usd", "steps"}
    assert plan["allow"] is True
    assert plan["digest"].startswith("sha256:")
    assert [step["id"] for step in plan["steps"]] == ["hello"]
    assert sorted(str(path) for path in shop.rglob("*")) == before
    code, plan = call(capsys, "plan", "greet", "--region", "KP")
    assert code == 3
    assert plan["allow"] is False


def test_a_denied_run_exits_3_and_still_has_evidence(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, run = call(capsys, "run", "greet", "--budget", "0.000000001")
    assert code == 3
    assert run["status"] == "denied"
    assert Path(run["evidence"]).is_file()
    assert run_command(["run", "greet", "--budget", "0.000000001"]) == 3
    assert "remedy:" in capsys.readouterr().out


def test_ctrl_c_cancels_the_run_and_exits_4(shop: Path) -> None:
    command = [sys.executable, "-m", "maestro_dagster", "run", "slow", "--json"]
    with subprocess.Popen(command, cwd=shop, stdout=subprocess.PIPE, start_new_session=True) as process:
        end = time.monotonic() + 60
        journal = Journal(shop / ".maestro" / "journal.sqlite")
        while time.monotonic() < end and not journal.begun():
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    run = json.loads(out)
    assert run["status"] == "cancelled"
    assert Path(run["evidence"]).is_file()


def test_cancel_closes_a_run_that_nobody_works_on(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maestro_dagster.cli.request import Typed, make_request
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    project = find_project()
    request = make_request(project, Typed("greet"))
    open_engine(project).request(request)
    code, said = call(capsys, "cancel", request.run_id)
    assert code == 0
    assert (said["status"], said["ended_already"]) == ("cancelled", False)
    assert Path(said["evidence"]).is_file()
    assert run_command(["watch", request.run_id]) == 4


def test_logs_are_lines_or_documents(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "assets" / "slow.yaml").write_text(SLOW.replace('[sleep, "60"]', '[echo, "a line"]'))
    code, run = call(capsys, "run", "slow")
    assert code == 0
    assert run_command(["logs", run["run_id"], "--step", "wait", "-f"]) == 0
    assert "wait: " in capsys.readouterr().out
    assert run_command(["logs", run["run_id"], "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert {"ts", "step", "line"} <= set(lines[0])
    code, said = call(capsys, "logs", run["run_id"], "--step", "nostep")
    assert (code, said["error"]["code"]) == (2, "step-unknown")
    assert "wait" in said["error"]["remedy"]
    code, said = call(capsys, "cancel", run["run_id"])
    assert (code, said["status"], said["ended_already"]) == (0, "succeeded", True)
    assert run_command(["cancel", run["run_id"]]) == 0
    assert "had ended already (succeeded)" in capsys.readouterr().out


BOOM = """
import sys
sys.stderr.write('Traceback\\n  File x\\nValueError: ' + 'y' * 90 + '\\n')
sys.exit(1)
"""


def test_a_traceback_stands_once_in_the_log_and_shortened_in_tables(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SLOW.replace('[sleep, "60"]', json.dumps(["python3", "-c", BOOM]))
    (shop / "assets" / "slow.yaml").write_text(text)
    code, run = call(capsys, "run", "slow")
    assert code == 1
    (step,) = run["steps"]
    assert "ValueError: yyy" in step["error"]["fact"]
    assert run_command(["logs", run["run_id"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(" wait: " in line for line in lines)
    assert sum("ValueError: yyy" in line for line in lines) == 1
    assert sum("Traceback" in line for line in lines) == 1
    assert any("exit code 1: see above; at step wait; read" in line for line in lines)
    run_command(["status", run["run_id"]])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wait ")]
    assert "exit code 1" in row
    assert len(row) < 110


def test_log_lines_that_were_not_said_before_all_stand_with_their_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maestro_dagster.cli.logs import _Printer

    entry = {"ts": 0.0, "step": "a", "iteration": -1, "attempt": 1}
    printer = _Printer()
    printer.show({**entry, "line": "one"})
    printer.show({**entry, "line": "failed: one\nnew\none; at step a"})
    printer.show({**entry, "attempt": 2, "line": "failed: one\none; at step a"})
    said = [line.partition(" a: ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["one", "failed: one", "new", "one; at step a", "failed: one", "one; at step a"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [(None, None), ("\n", None), ("short", "short"), ("a\nb", "a ..."), ("x" * 61, "x" * 57 + "...")],
)
def test_a_cell_is_one_short_line(text: str | None, shown: str | None) -> None:
    assert first_line(text) == shown
    assert len(first_line("z" * 60 + "\nmore") or "") == 60


def test_a_run_that_nobody_works_on_is_stalled(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maestro_dagster.cli.request import Typed, make_request
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    project = find_project()
    engine = open_engine(project)
    request = make_request(project, Typed("greet"))
    engine.request(request)
    assert call(capsys, "status", request.run_id)[1]["orphaned"] is False
    engine.services.journal.start_run(request.run_id)
    assert call(capsys, "status", request.run_id)[1]["orphaned"] is True
    assert [run["orphaned"] for run in call(capsys, "status")[1]["runs"]] == [True]
    for asked in (["status", request.run_id], ["status"]):
        assert run_command(asked) == 0
        said = capsys.readouterr().out
        assert "stalled" in said
        assert f"maestro retry {request.run_id}" in said
    with subprocess.Popen(
        [sys.executable, "-m", "maestro_dagster", "watch", request.run_id],
        stderr=subprocess.PIPE, text=True, cwd=shop,
    ) as watching:  # fmt: skip
        assert watching.stderr is not None
        assert "stalled" in watching.stderr.readline()
        watching.terminate()
    engine.take_lease(request.run_id, "me")
    assert call(capsys, "status", request.run_id)[1]["orphaned"] is False
    assert run_command(["status"]) == 0
    assert "stalled" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "logs", "watch", "cancel", "retry"])
def test_an_unknown_run_is_a_coded_error(
    shop: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, said = call(capsys, command, "no-such-run")
    assert code == 1
    assert said["error"]["code"] == "run-unknown"
    assert said["error"]["remedy"]


def test_a_wrong_flow_or_parameter_is_said_before_anything_runs(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "run", "nothing")[1]["error"]["code"] == "flow-missing"
    code, said = call(capsys, "run", "greet", "-p", "name=x")
    assert (code, said["error"]["code"]) == (2, "usage")
    code, said = call(capsys, "run", "greet", "--budget", "much")
    assert (code, said["error"]["code"]) == (2, "money-invalid")


def test_parameters_have_the_types_of_the_flow() -> None:
    params = {"s": {}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
              "a": {"type": "array"}, "o": {"type": "object"}}  # fmt: skip
    tasks = [{"id": "a", "uses": "pkg:text/template@1.0.0"}]
    flow = Flow.model_validate({"name": "typed", "version": "1.0.0", "params": params, "tasks": tasks})
    given = ["s=1", "i=1", "n=1.5", "b=true", 'a=["x"]', 'o={"x": 1}']
    assert parse_params(flow, given) == {"s": "1", "i": 1, "n": 1.5, "b": True, "a": ["x"], "o": {"x": 1}}
    for wrong in ("i=x", "i=true", "i=1.5", "b=1", "a={}", "o=[]", "n=", "x=1", "noequals"):
        with pytest.raises(UsageError):
            parse_params(flow, [wrong])
    with pytest.raises(UsageError):
        parse_params(flow, ["s=1", "s=2"])


def test_run_does_not_wait_for_the_limit_of_the_loop(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_MAX_CONCURRENT_RUNS", "0")
    assert call(capsys, "run", "greet")[1]["status"] == "succeeded"


def test_run_ids_differ_and_are_safe_in_paths() -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(each.isalnum() and len(each) == 26 for each in ids)


@pytest.mark.parametrize(
    "arguments", [["status"], ["plan", "greet"], ["logs", "x"], ["--help"], ["run", "--help"]]
)
def test_commands_that_run_nothing_never_import_dagster(shop: Path, arguments: list[str]) -> None:
    script = (
        "import sys; from maestro_dagster.cli.main import run_command; run_command(sys.argv[1:]);"
        "names = ('dagster', 'litellm', 'polars', 'pyarrow', 'duckdb', 'pandas', 'aiohttp');"
        "heavy = set(names) & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=shop,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
