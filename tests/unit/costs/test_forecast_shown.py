"""Forecasts and anomalies where people meet them: the commands, and the assets in a Dagster instance."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import re
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from costs_support import make_event

from maestro_dagster.cli.cost import command
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import build_cubes
from maestro_dagster.costs.forecast_history import read_history
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import MaestroError
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource

HOSTILE = '<b onload="x">](y) & |'
SPIKE = 9  # days ago


class LakeOfTest(LakeResource):
    spool_folder: str

    def spool(self) -> Spool:
        return Spool(Path(self.spool_folder))


def days_ago(count: int) -> str:
    return (datetime.now(UTC).date() - timedelta(days=count)).isoformat()


def fill(spool: Spool, days: int, *, spike: int = SPIKE) -> int:
    """Usage of the days up to today, one event without a price; the sum of all in nano-USD."""
    draw = random.Random(5)
    events = []
    for back in range(days - 1, -1, -1):
        day = days_ago(back)
        calm = 0.4 if date.fromisoformat(day).weekday() >= 5 else 1.0
        for tenant, model, flow in (
            ("acme", "big", "brief"),
            ("acme", HOSTILE, "brief"),
            ("zeta", "big", "b"),
        ):
            cost = round(3e9 * calm * draw.gauss(1, 0.03) * (4 if (back, model) == (spike, HOSTILE) else 1))
            event = make_event(
                "r", provider="p", model=model, cost_nano=cost, occurred_at=f"{day}T10:00:00.000000Z"
            )
            events.append(dataclasses.replace(event, tenant=tenant, flow=flow))
        compute = make_event("r", kind="compute", cost_nano=7, occurred_at=f"{day}T11:00:00.000000Z")
        events.append(compute)
    events.append(
        make_event(
            "r", provider="p", model="free", cost_nano=None, occurred_at=f"{days_ago(1)}T12:00:00.000000Z"
        )
    )
    with spool.open_run("r") as writer:
        writer.append(events)
    return sum(event.cost_nano or 0 for event in events)


@pytest.fixture
def project(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without budgets."""
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    shutil.copytree(
        repository / "resources",
        tmp_path / "resources",
        ignore=shutil.ignore_patterns("*.py", "budgets.yaml"),
    )
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    return tmp_path


@pytest.fixture
def home(project: Path) -> Spool:
    return Spool(project / ".maestro" / "spool")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def answer(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_history_is_the_same_from_spool_lake_and_cubes(home: Spool, project: Path) -> None:
    total = fill(home, 8, spike=2)
    lake = open_lake(project / "lake")
    period = {"first": days_ago(30), "last": days_ago(0)}
    fresh = read_history(lake, home, **period)
    assert sum(fresh.total.values()) == total
    assert fresh.unknown == 1
    for names in fresh.parts.values():
        assert sum(nano for days in names.values() for nano in days.values()) == total
    assert set(fresh.parts["model"]) == {"p/big", f"p/{HOSTILE}", "compute", "p/free"}
    for back in range(8):
        compact_day(home, lake, days_ago(back), lambda run: True)
        if back % 2:
            build_cubes(lake, days_ago(back))
    assert read_history(lake, home, **period) == fresh


def test_a_forecast_names_the_months_end_and_how_it_did_before(home: Spool, project: Path) -> None:
    fill(home, 100, spike=-1)
    value = answer("forecast", "--budget", "1usd", "--svg", str(project / "f.svg"))
    assert (value["schema"], value["currency"], value["level"]) == ("maestro.cost-forecast/v1", "USD", 0.9)
    assert value["unknown_events"] == 1
    (made,) = value["forecasts"]
    assert (made["name"], made["method"], made["history_days"]) == ("total", "least-squares", 90)
    assert made["backtest"]["mape"] < made["naive"]["mape"] < 0.1
    assert made["days"][-1]["day"] == made["month"]["last"]
    assert made["days"][0]["day"] == value["as_of"]
    month = {
        name: float(made["month"][name]) for name in ("spent_usd", "end_low_usd", "end_usd", "end_high_usd")
    }
    assert sorted(month.values()) == list(month.values())
    assert (made["month"]["limit_usd"], made["month"]["runs_out"]) == ("1", made["month"]["first"])
    ET.fromstring((project / "f.svg").read_text())  # noqa: S314 - our own text
    text = call("forecast", "--budget", "1usd").output
    assert "budget 1 USD: reached on" in text
    assert "not counted: 1 events whose price is unknown" in text


def test_a_forecast_of_each_name(home: Spool) -> None:
    fill(home, 60)
    value = answer("forecast", "--by", "model", "--days", "3", "--method", "seasonal-naive")
    names = {made["name"]: made for made in value["forecasts"]}
    assert set(names) == {"p/big", f"p/{HOSTILE}", "compute", "p/free"}
    assert [len(made["days"]) for made in names.values()] == [3, 3, 3, 0]
    assert names["compute"]["days"][0]["usd"] == "0.000000007"
    assert names["p/free"]["method"] is None, "it never had a price"
    text = call("forecast", "--by", "tenant").output
    assert "too little history" not in text.partition("acme")[2].partition("\n")[0]


@pytest.mark.parametrize("verb", ["forecast", "anomalies"])
def test_without_usage_nothing_is_invented(project: Path, verb: str) -> None:
    assert call(verb).output.startswith("no usage was recorded")
    assert call(verb, "--fail" if verb == "anomalies" else "--days=3").exit_code == 0
    value = answer(verb)
    assert value.get("anomalies", []) == []
    assert [made["method"] for made in value.get("forecasts", [])] == [None] * (verb == "forecast")


def test_little_history_is_said(home: Spool) -> None:
    fill(home, 10)
    output = call("forecast").output
    assert "method: none (9 days of history; a forecast needs 14)" in output
    assert "at its end" not in output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("forecast", "--budget", "much"), "money-invalid"),
        (("forecast", "--by", "model", "--budget", "1usd"), "usage"),
        (("forecast", "--by", "model", "--svg", "x.svg"), "usage"),
        (("forecast", "--svg", "/nowhere/x.svg"), "svg-write"),
        (("anomalies", "--least", "-1"), "money-invalid"),
        (("anomalies", "--since", "2999-01-01"), "usage"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(home: Spool, arguments: tuple[str, ...], code: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, MaestroError)
    assert result.exception.error_code == code
    assert result.exception.remedy


def test_anomalies_are_explained_and_fail_on_request(home: Spool) -> None:
    fill(home, 100)
    value = answer("anomalies")
    (found,) = value["anomalies"]
    assert (found["name"], found["day"], found["score"] > 5) == ("total", days_ago(SPIKE), True)
    first = {cause["dimension"]: cause["name"] for cause in reversed(found["causes"])}
    assert first == {"tenant": "acme", "model": f"p/{HOSTILE}", "flow": "brief"}
    (named,) = answer("anomalies", "--by", "model")["anomalies"]
    assert named["name"] == f"p/{HOSTILE}"
    assert (call("anomalies").exit_code, call("anomalies", "--fail").exit_code) == (0, 1)
    assert call("anomalies", "--fail", "--since", days_ago(SPIKE - 1)).exit_code == 0
    assert "what changed on" in call("anomalies").output


def load(repository: Path, name: str) -> Any:
    path = repository / name
    spec = importlib.util.spec_from_file_location(f"shipped_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("days", [0, 5, 100])
def test_the_assets_show_figures_and_pictures(
    repository: Path, tmp_path: Path, home: Spool, days: int
) -> None:
    if days:
        fill(home, days)
    shipped = load(repository, "assets/cost_forecast.py")
    lake = LakeOfTest(folder=str(tmp_path / "lake"), spool_folder=str(home.folder))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [shipped.cost_forecast, shipped.cost_anomalies], resources={"lake": lake}, instance=instance
        )
        assert result.success
        shown = {
            name: {key: value.value for key, value in event.metadata.items()}
            for name in ("cost_forecast", "cost_anomalies")
            if (event := instance.get_latest_materialization_event(dg.AssetKey(name)).asset_materialization)
        }
    forecast, anomalies = shown["cost_forecast"], shown["cost_anomalies"]
    large = (forecast["days_with_interval"], forecast["month_with_interval"], anomalies["days_with_amounts"])
    for picture in large:
        assert picture.startswith("![")
        assert picture.count("](data:image/svg+xml;base64,") == 1
    for small in (forecast["days"], anomalies["days"], forecast["month"]):
        assert re.match(r"!\[(cost a day|month to date)\]\(data:image/svg\+xml,", small)
        assert len(small) < 1000  # else Dagster hides it behind a click
    if days < 14:
        assert forecast["method"] == "none"
        assert (forecast["month_end"], "month_end_usd" in forecast) == ("cannot be said", False)
        assert anomalies["anomalies"] == 0
        return
    assert forecast["method"] == "least-squares"
    assert forecast["backtest_mape"] > 0
    assert forecast["naive_mape"] > 0
    assert forecast["month_end_low_usd"] <= forecast["month_end_usd"] <= forecast["month_end_high_usd"]
    assert forecast["events_without_price"] == 1
    assert anomalies["anomalies"] == 1
    (row,) = anomalies["table"].records
    assert row.data["day"] == days_ago(SPIKE)
    assert f"model p/{HOSTILE}" in row.data["changed most"]
    assert forecast["month_end"].endswith(" USD")
    assert format_nano(1) not in forecast["method"]
    assert forecast["budget"] == "none: resources/budgets.yaml limits no month of tenant default in USD"
    assert not {"budget_usd", "budget_used_percent", "runs_out_on"} & forecast.keys()


def forecast_against(repository: Path, project: Path, spool: Spool, limit: str) -> dict[str, Any]:
    """What the asset shows when the tenant acme has this month limit."""
    (project / "pyproject.toml").write_text('[tool.maestro]\ntenant = "acme"\n')
    (project / "resources" / "budgets.yaml").write_text(
        'version: 1\ncurrency: USD\nbudgets:\n  - valid_from: "2020-01-01"\n'
        f"    tenants: {{acme: {{month: {limit}}}}}\n"
    )
    lake = LakeOfTest(folder=str(project / "lake"), spool_folder=str(spool.folder))
    asset = load(repository, "assets/cost_forecast.py").cost_forecast
    with dg.DagsterInstance.ephemeral() as instance:
        (event,) = dg.materialize(
            [asset], resources={"lake": lake}, instance=instance
        ).get_asset_materialization_events()
    return {key: value.value for key, value in event.materialization.metadata.items()}


@pytest.mark.parametrize("which", ["soft", "hard"])
def test_the_month_is_set_against_the_budget_of_the_tenant(
    repository: Path, home: Spool, project: Path, which: str
) -> None:
    fill(home, 100, spike=-1)
    shown = forecast_against(repository, project, home, f'{{{which}: "1000"}}')
    assert shown["budget"] == f"1000 USD a month, the {which} limit of tenant acme"
    assert (shown["budget_usd"], shown["runs_out_on"]) == (1000.0, "not this month")
    month = days_ago(0)[:7]
    sums = read_history(
        open_lake(project / "lake"), home, first=f"{month}-01", last=days_ago(0)
    ).parts["tenant"]["acme"]  # fmt: skip
    spent = sum(sums.values())
    assert shown["budget_used_percent"] == pytest.approx(spent / 10**10, abs=1e-6)
    assert shown["budget_end_percent"] >= shown["budget_used_percent"]
    assert f"{format_nano(spent)} USD so far of 1000" in shown["month"]
    assert spent / 1e9 < shown["month_to_date_usd"], "zeta's costs are not acme's"


@pytest.mark.parametrize(
    ("days", "limit", "said"),
    [
        (100, '{hard: "0.5"}', r"\d{4}-\d\d-01"),
        (100, '{hard: "0"}', r"\d{4}-\d\d-01"),
        (5, '{hard: "9000"}', r"cannot be said: .*14"),
        (0, '{hard: "9000"}', r"cannot be said: no usage was recorded"),
    ],
)
def test_a_budget_that_runs_out_or_cannot_be_foreseen(
    repository: Path, home: Spool, project: Path, days: int, limit: str, said: str
) -> None:
    if days:
        fill(home, days)
    shown = forecast_against(repository, project, home, limit)
    assert re.fullmatch(said, shown["runs_out_on"])
    assert ("budget_used_percent" in shown) == ('"0"' not in limit), "a percent of nothing"
    assert len(shown["month"]) < 1000


def test_a_budget_of_tokens_limits_no_usd(repository: Path, home: Spool, project: Path) -> None:
    fill(home, 20)
    shown = forecast_against(repository, project, home, "{tokens: 1000}")
    assert shown["budget"].startswith("none: ")
    assert "budget_usd" not in shown
