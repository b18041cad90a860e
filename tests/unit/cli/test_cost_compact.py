"""`maestro cost compact`: days by hand, quarantine and its exit code."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.cost import command
from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.schema import usage_schema
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import UsageError


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    return Spool(tmp_path / ".maestro" / "spool")


def use(spool: Spool, run: str, day: str, price: str = "rates@2026-01-01") -> None:
    event = UsageScope("default", run, "brief", "draft", 1).make_event(
        "llm", provider="p", model="m", cost_nano=7, price=price, occurred_at=f"{day}T12:00:00.000000Z"
    )
    with spool.open_run(run) as writer:
        writer.append([event])


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, ("compact", *arguments), catch_exceptions=False)


@pytest.mark.slow
def test_days_are_published_once_and_a_bad_one_is_quarantined(spool: Spool, tmp_path: Path) -> None:
    use(spool, "r1", "2026-03-01")
    use(spool, "r2", "2026-03-02")
    value = json.loads(call("--day", "2026-03-01", "--json").stdout)
    (day,) = value["days"]
    assert (day["day"], day["rows"], day["rows_added"], day["sum_usd"]) == ("2026-03-01", 1, 1, "0.000000007")
    assert (day["balanced"], day["quarantined"], value["quarantined"]) == (True, False, 0)
    use(spool, "r3", "2026-03-01", price="")  # a cost that no price made
    result = call("--all", "--json")
    value = json.loads(result.stdout)
    assert (result.exit_code, value["quarantined"]) == (3, 1)
    assert [(day["day"], day["rows"], day["quarantined"]) for day in value["days"]] == [
        ("2026-03-01", 1, True),
        ("2026-03-02", 1, False),
    ]
    assert [check["name"] for check in value["days"][0]["checks"] if not check["passed"]][0:1] == ["money"]
    lake = open_lake(tmp_path / ".maestro" / "lake")
    assert lake.usage.days() == lake.table("cube_day_tenant").days() == ("2026-03-01", "2026-03-02")
    shown = call("--day", "2026-03-01")
    assert (shown.exit_code, "quarantined" in shown.output, "money:" in shown.output) == (3, True, True)


def test_nothing_to_do_is_said_and_a_wrong_call_is_refused(spool: Spool) -> None:
    assert "no usage waits" in call("--all").output
    for arguments in ((), ("--all", "--day", "2026-03-01")):
        with pytest.raises(UsageError):
            call(*arguments)
    for day in ("2026-3-1", "foo", "9999-12-31", "2099-01-01"):
        assert run_command(["cost", "compact", "--day", day]) == 2


def test_nothing_is_published_of_a_day_without_usage(spool: Spool, tmp_path: Path) -> None:
    use(spool, "r1", "2026-03-01")
    lake = open_lake(tmp_path / ".maestro" / "lake")
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    value = json.loads(call("--day", "1900-01-01", "--day", tomorrow, "--json").stdout)
    assert [(day["rows"], day["published"], day["digest"]) for day in value["days"]] == [(0, False, None)] * 2
    assert lake.usage.days() == lake.table("cube_day_tenant").days() == ()
    assert "no usage" in call("--day", "1900-01-01").output
    call("--day", "2026-03-01")
    assert lake.usage.days() == ("2026-03-01",)


def test_an_empty_day_that_was_published_before_widens_no_export(spool: Spool, tmp_path: Path) -> None:
    use(spool, "r1", "2026-03-01")
    lake = open_lake(tmp_path / ".maestro" / "lake")
    with lake.usage.lock_day("1900-01-01"):
        lake.usage.write_day("1900-01-01", usage_schema().empty_table())
    arguments = ("export", "--format", "csv", "-o", str(tmp_path / "u.csv"), "--no-sign", "--json")
    told = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)
    assert (told["first_day"], told["last_day"]) == ("2026-03-01", "2026-03-01")
