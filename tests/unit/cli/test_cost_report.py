"""`maestro cost report` and `top` over lake and spool, for people and for scripts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.cli.cost import command
from maestro_dagster.cli.cost_report import BY
from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import build_cubes
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.spool import Spool

TODAY = datetime.now(UTC).date()


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    return Spool(tmp_path / ".maestro" / "spool")


def use(spool: Spool, run: str, day: Any, cost: int | None, **values: Any) -> None:
    scope = UsageScope(
        "acme", run, values.pop("flow", "brief"), values.pop("step", "draft"), values.pop("attempt", 1)
    )
    event = scope.make_event(
        values.pop("kind", "llm"), provider="p", model=values.pop("model", "m"), cost_nano=cost,
        occurred_at=f"{day}T12:00:00.000000Z", **values,
    )  # fmt: skip
    with spool.open_run(run) as writer:
        writer.append([event])


def publish(spool: Spool, tmp_path: Path) -> None:
    lake = open_lake(tmp_path / ".maestro" / "lake")
    for day in spool.days():
        compact_day(spool, lake, day, lambda _: True)
        build_cubes(lake, day)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("by", BY)
def test_a_period_and_a_run_by_everything(spool: Spool, tmp_path: Path, by: str) -> None:
    use(spool, "r1", "2026-03-01", 5)
    publish(spool, tmp_path)
    use(spool, "r2", "2026-03-02", 10**9, attempt=2)
    for arguments, total in (
        (("report", "--by", by), "1.000000005"),
        (("report", "r1", "--by", by), "0.000000005"),
    ):
        value = json.loads(call(*arguments, "--json"))
        assert (value["by"], value["known_usd"]) == (by, total)
        assert sum(row["events"] for row in value["rows"]) == value["events"]
        assert f"total {total} USD" in call(*arguments)
    assert "1 USD of it for second and later attempts" in call("report", "--by", by)


def test_the_shape_of_a_run_stays(spool: Spool, tmp_path: Path) -> None:
    use(spool, "r1", "2026-03-01", 5)
    before = json.loads(call("report", "r1", "--json"))
    publish(spool, tmp_path)
    assert json.loads(call("report", "r1", "--json")) == before
    assert before["schema"] == "maestro.cost-report/v1"
    assert before["by_step"][0]["attempts"] == 1
    assert set(before) == {
        "schema", "currency", "runs", "total_usd", "known_usd", "unknown_events", "tokens_in", "tokens_out",
        "tokens_cached", "cpu_ms", "bytes_in", "bytes_out", "events", "unsettled", "failures", "unknown",
        "by_step", "by_flow", "by_kind", "by_model", "prices", "by", "rows",
    }  # fmt: skip


def test_the_shape_of_a_period(spool: Spool) -> None:
    use(spool, "r1", "2026-03-01", None, outcome="failed")
    value = json.loads(call("report", "--since", "2026-03-01", "--json"))
    assert set(value) == {
        "schema", "currency", "since", "until", "first_day", "last_day", "total_usd", "known_usd",
        "unknown_events", "tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out",
        "events", "unsettled", "failures", "retries", "unknown", "by_step", "by_flow", "by_kind", "by_model",
        "by", "rows", "rows_left_out",
    }  # fmt: skip
    assert (value["schema"], value["since"], value["until"]) == ("maestro.cost-period/v1", "2026-03-01", None)
    assert value["failures"] == {"events": 1, "known_usd": "0", "unknown_events": 1}
    assert (value["total_usd"], value["unknown"][0]["events"]) == (None, 1)


def test_the_month_is_this_month(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    use(spool, "old", TODAY.replace(day=1) - timedelta(days=1), 7)
    use(spool, "new", TODAY, 5)
    assert json.loads(call("report", "--month", "--json"))["known_usd"] == "0.000000005"
    assert run_command(["cost", "report", "--month", "--since", "2026-03-01"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_long_tables_show_the_dearest(spool: Spool) -> None:
    for number in range(45):
        use(spool, "r", "2026-03-01", number, flow=f"flow-{number:02d}")
    text = call("report", "--by", "flow")
    assert "flow-44" in text
    assert "flow-04" not in text
    assert "the 40 dearest; 5 more are not shown" in text
    assert len(json.loads(call("report", "--by", "flow", "--json"))["rows"]) == 45


def test_top(spool: Spool, tmp_path: Path) -> None:
    assert "no usage was recorded" in call("top")
    use(spool, "r1", TODAY - timedelta(days=7), 50, model="old")
    publish(spool, tmp_path)
    use(spool, "r2", TODAY, 80, model="new", outcome="failed")
    use(spool, "r3", TODAY, None, model="dark")
    text = call("top")
    assert "dearest from" in text
    assert "draft" in text
    assert "total 0.00000008 USD, +0.00000003 against the 0.00000005 before; 1 events have no price" in text
    assert "failed work cost 0.00000008 USD" in text
    value = json.loads(call("top", "--json", "--days", "1", "--by", "model"))
    assert (value["schema"], value["since"], value["until"]) == (
        "maestro.cost-top/v1",
        f"{TODAY}",
        f"{TODAY}",
    )
    assert [row["model"] for row in value["changed"]] == ["new"]
    assert [row["model"] for row in value["dearest"]] == ["new", "dark"]
    since = f"{TODAY - timedelta(days=7)}"
    value = json.loads(
        call("top", "--json", "--since", since, "--until", since, "--by", "run", "--limit", "1")
    )
    assert [row["run_id"] for row in value["dearest"]] == ["r1"]


def test_top_shows_usage_where_no_model_was_called(spool: Spool) -> None:
    use(spool, "r1", TODAY, 80, kind="compute", model="")
    assert "draft" in call("top")
    assert "no model was called" in call("top", "--by", "model")


def test_top_names_the_same_period_in_both_forms(spool: Spool) -> None:
    value = json.loads(call("top", "--json"))
    text = call("top")
    assert f"from {value['since']} to {value['until']}," in text
    assert f"before, from {value['before']['since']} to {value['before']['until']}" in text


@pytest.mark.parametrize(
    "period",
    [("--days", "3", "--since", "2026-03-01"), ("--since", "0001-01-01"), ("--until", "0001-01-03"),
     ("--since", "2026-3-1"), ("--since", "20260301"), ("--since", "foo")],
)  # fmt: skip
def test_top_refuses_periods_that_cannot_be(
    spool: Spool, period: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["cost", "top", *period]) == 2
    assert "error[usage]" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["0001-01-01", "0999-12-31"])
def test_the_first_and_the_last_day_there_are_can_be_asked_for(spool: Spool, first: str) -> None:
    use(spool, "r1", "2026-03-01", 5)
    value = json.loads(call("report", "--since", first, "--until", "9999-12-31", "--json"))
    assert (value["since"], value["until"], value["events"]) == (first, "9999-12-31", 1)
    assert json.loads(call("anomalies", "--since", first, "--json"))["schema"]
    assert (
        json.loads(call("report", "r1", "--since", first, "--until", "9999-12-31", "--json"))["events"] == 1
    )


def test_top_refuses_days_that_are_turned_round(spool: Spool) -> None:
    assert run_command(["cost", "top", "--since", "2026-03-02", "--until", "2026-03-01"]) == 2
