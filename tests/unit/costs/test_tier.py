"""budgets.yaml is read strictly: what is wrong is said with its place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.costs.period import periods_of, spell_day
from maestro_dagster.costs.tier import BudgetBook, Limit
from maestro_dagster.errors import CostError

SHIPPED = Path(__file__).resolve().parents[3] / "resources" / "budgets.yaml"


def document(**entry: Any) -> dict[str, Any]:
    return {"version": 1, "currency": "USD", "budgets": [{"valid_from": "2026-01-01", **entry}]}


def test_the_shipped_tiers_are_the_promised_ones() -> None:
    chapter = BudgetBook.load(SHIPPED).chapter("2026-11-03")
    assert chapter
    assert chapter.actions == (("warn", 80), ("downgrade", 90), ("slow", 95), ("freeze", 100))
    (tenant,) = chapter.path("anybody")
    assert tenant.tier == "bronze"
    assert tenant.limits["run"] == Limit(hard_nano=1_500_000_000)
    assert tenant.limits["month"].hard_nano == 18_000 * 10**9


def test_a_project_without_the_file_has_no_budgets(tmp_path: Path) -> None:
    assert BudgetBook.load(tmp_path / "budgets.yaml").chapter("2026-11-03") is None


def test_the_newest_entry_that_has_begun_holds() -> None:
    whole = document(tiers={"x": {"day": {"hard": "1"}}}, default="x")
    later = copy.deepcopy(whole["budgets"][0])
    later["valid_from"] = "2026-06-01"
    later["tiers"]["x"]["day"]["hard"] = "2"
    whole["budgets"].append(later)
    book = BudgetBook.from_document(whole)
    assert book.chapter("2025-12-31") is None
    found = [book.chapter(day) for day in ("2026-05-31", "2026-06-01")]
    assert [chapter and chapter.default.limits["day"].hard_nano for chapter in found] == [10**9, 2 * 10**9]


def test_a_node_has_the_limits_of_its_tier_but_for_its_own() -> None:
    book = BudgetBook.from_document(
        document(
            tiers={"x": {"day": {"hard": "1"}, "month": {"hard": "9"}}, "y": {"run": {"tokens": 5}}},
            default="x",
            tenants={"t": {"month": {"soft": "3"}, "projects": {"p": {"flows": {"f": {"tier": "y"}}}}}},
        )
    )
    chapter = book.chapter("2026-01-01")
    assert chapter
    tenant, project, flow = chapter.path("t", "p", "f")
    assert tenant.limits == {"day": Limit(hard_nano=10**9), "month": Limit(soft_nano=3 * 10**9)}
    assert project.limits == {}
    assert flow.limits == {"run": Limit(tokens=5)}
    assert chapter.path("t", "p", "other")[2].limits == {}


@pytest.mark.parametrize(
    ("entry", "where", "fact"),
    [
        ({"tires": {}}, "budgets[0]", "unknown key 'tires'; did you mean 'tiers'?"),
        ({"valid_from": "soon"}, "budgets[0]", "'soon', which is not a date"),
        ({"default": "gold"}, "budgets[0].default", "there is no tier 'gold'"),
        ({"tiers": {"x": {"week": {}}}}, "budgets[0].tiers.x", "unknown key 'week'"),
        ({"tiers": {"x": {"day": {}}}}, "tiers.x.day", "at least one of soft, hard, tokens"),
        ({"tiers": {"x": {"day": {"hard": 5}}}}, "tiers.x.day.hard", "in quotes"),
        ({"tiers": {"x": {"day": {"hard": "-5"}}}}, "tiers.x.day.hard", "not an amount"),
        ({"tiers": {"x": {"day": {"hard": "1e3"}}}}, "tiers.x.day.hard", "not an amount"),
        ({"tiers": {"x": {"day": {"soft": "2", "hard": "2"}}}}, "tiers.x.day", "below the hard one"),
        ({"tiers": {"x": {"day": {"tokens": True}}}}, "tiers.x.day", "no whole number"),
        ({"actions": {"warn": 90, "slow": 80}}, "budgets[0].actions", "cannot be at a lower percent"),
        ({"actions": {"freeze": 90}}, "budgets[0].actions", "`freeze` is at 100"),
        ({"actions": {"warn": 100}}, "budgets[0].actions", "no whole percent"),
        ({"downgrade": {"max_tokens": 0}}, "budgets[0].downgrade", "no number of tokens"),
        ({"downgrade": {"models": {"a": 1}}}, "downgrade.models.a", "stands for another by name"),
        ({"slow": {"delay_seconds": "1"}}, "budgets[0].slow", "not 0 to 3600"),
        ({"tenants": {"a/b": {}}}, "budgets[0].tenants", "cannot name a tenant"),
        ({"tenants": {"a": {"flows": {}}}}, "tenants.a", "unknown key 'flows'"),
        ({"tenants": ["a"]}, "budgets[0].tenants", "names with values"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(entry: dict[str, Any], where: str, fact: str) -> None:
    with pytest.raises(CostError) as caught:
        BudgetBook.from_document(document(**entry), place="budgets.yaml")
    assert caught.value.error_code == "budgets-invalid"
    assert fact in caught.value.fact
    assert caught.value.place.endswith(where)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "whole",
    [
        None,
        [],
        {"version": 2, "currency": "USD", "budgets": []},
        {"version": 1, "currency": "EUR", "budgets": []},
        {"version": 1, "currency": "USD", "budgets": {}},
        {
            "version": 1,
            "currency": "USD",
            "budgets": [{"valid_from": "2026-01-02"}, {"valid_from": "2026-01-01"}],
        },
    ],
)
def test_another_shape_is_refused(whole: Any) -> None:
    with pytest.raises(CostError):
        BudgetBook.from_document(whole)


def test_text_that_is_no_yaml_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text("budgets: [")
    with pytest.raises(CostError) as caught:
        BudgetBook.load(path)
    assert caught.value.place == str(path)


@pytest.mark.parametrize(
    ("day", "labels", "renewals"),
    [
        ("2026-11-30", ["2026-11-30", "2026-11", "2026-Q4"], ["2026-12-01", "2026-12-01", "2027-01-01"]),
        ("2026-12-31", ["2026-12-31", "2026-12", "2026-Q4"], ["2027-01-01"] * 3),
        ("2028-02-28", ["2028-02-28", "2028-02", "2028-Q1"], ["2028-02-29", "2028-03-01", "2028-04-01"]),
        ("2026-03-31", ["2026-03-31", "2026-03", "2026-Q1"], ["2026-04-01"] * 3),
        ("2026-07-01", ["2026-07-01", "2026-07", "2026-Q3"], ["2026-07-02", "2026-08-01", "2026-10-01"]),
    ],
)
def test_periods_end_where_the_next_begins(day: str, labels: list[str], renewals: list[str]) -> None:
    found = periods_of(day)
    assert [period.label for period in found] == labels
    assert [period.until for period in found] == renewals


def test_a_day_is_spelled_out() -> None:
    assert spell_day("2026-12-01") == "1 December 2026"
