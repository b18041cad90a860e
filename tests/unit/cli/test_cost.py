from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.cost import command
from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import MaestroError


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    spool = Spool(tmp_path / ".maestro" / "spool")
    for run, step, cost in (("r1", "a", 5), ("r1", "b", 10**9), ("r2", "a", None)):
        scope = UsageScope("default", run, "flow", step, 1)
        with spool.open_run(run) as writer:
            writer.append(
                [
                    scope.make_event(
                        "llm",
                        provider="p",
                        model="m",
                        cost_nano=cost,
                        occurred_at="2026-03-01T00:00:00.000000Z",
                    )
                ]
            )
    return spool


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_a_run_is_reported_exactly(spool: Spool) -> None:
    value = json.loads(call("report", "r1", "--json").stdout)
    assert (value["total_usd"], value["runs"]) == ("1.000000005", ["r1"])
    text = call("report", "r1").output
    assert "total 1.000000005 USD" in text
    assert "unknown" not in text


def test_an_unknown_price_is_shown(spool: Spool) -> None:
    value = json.loads(call("report", "--json").stdout)
    assert (value["total_usd"], value["known_usd"], value["unknown_events"]) == (None, "1.000000005", 1)
    text = call("report", "--by", "model").output
    assert "and 1 events whose price is unknown" in text
    assert "no price: llm p m (1 events)" in text


@pytest.mark.parametrize("by", ["step", "model", "kind", "flow"])
def test_every_grouping_prints(spool: Spool, by: str) -> None:
    assert "total" in call("report", "--by", by).output


def test_periods_and_nothing(spool: Spool) -> None:
    assert json.loads(call("report", "--since", "2026-03-02", "--json").stdout)["events"] == 0
    assert json.loads(call("report", "--until", "2026-03-01", "--json").stdout)["events"] == 3
    assert "no usage" in call("report", "r1", "--since", "2026-03-02").output


def test_a_run_that_nothing_knows_is_unknown(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cost", "report", "nobody", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run-unknown"


@pytest.mark.parametrize("asked", [["report", "r1"], ["export", "--format", "csv", "-o", "u.csv"]])
def test_a_period_cannot_end_before_it_begins(
    spool: Spool, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    assert run_command(["cost", *asked, "--since", "2026-03-02", "--until", "2026-03-01"]) == 2
    assert "exchange" in capsys.readouterr().err
    assert run_command(["cost", "report", "--since", "2026-03-01", "--until", "2026-03-01"]) == 0


def test_the_export_is_a_whole_file(spool: Spool, tmp_path: Path) -> None:
    export = ("export", "--no-sign", "--format")  # there is no key in this project
    told = json.loads(call(*export, "csv", "-o", str(tmp_path / "u.csv"), "--json").stdout)
    assert (told["rows"], told["sum_usd"], told["first_day"]) == (3, "1.000000005", "2026-03-01")
    assert len((tmp_path / "u.csv").read_text().splitlines()) == 4
    assert "3 rows" in call(*export, "parquet", "-o", str(tmp_path / "u.parquet")).output
    for form in ("csv", "parquet"):
        with pytest.raises(MaestroError) as caught:
            call(*export, form, "-o", str(tmp_path / "no" / "u"))
        assert caught.value.error_code == "export-write"
        assert "the export cannot be written" in caught.value.fact
        assert "folder that exists" in caught.value.remedy


def test_a_report_of_a_run_in_the_spool_imports_nothing_heavy(spool: Spool, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom maestro_dagster.cli.cost import command\n"
        "command(['report', 'r1', '--json'], standalone_mode=False)\n"
        "print(sorted({'polars', 'pyarrow', 'duckdb', 'dagster', 'litellm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
