"""Burn-down: what is spent, what is to come, and the day that the budget runs out."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from maestro_dagster.costs.burn import burn_down, forecast_today, month_of

MONTH = {"first": "2026-03-01", "last": "2026-03-31"}


def steady(first: str, last: str, nano: int = 100) -> dict[str, int]:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return {(begin + timedelta(days=at)).isoformat(): nano for at in range((end - begin).days + 1)}


def test_a_steady_budget_runs_out_on_the_day_that_one_counts() -> None:
    sums = steady("2026-02-01", "2026-03-10")
    burn = burn_down(sums, 2_000, **MONTH, today="2026-03-10")
    assert (burn.spent_nano, burn.left_nano) == (1_000, 1_000)
    assert burn.runs_out == "2026-03-20"
    assert burn.end is not None
    assert (burn.end.day, burn.end.sum_nano) == ("2026-03-31", 3_100)
    assert burn_down(sums, 3_101, **MONTH, today="2026-03-10").runs_out is None
    assert burn_down(sums, 700, **MONTH, today="2026-03-10").runs_out == "2026-03-07", "it is long past"
    assert burn_down(sums, 0, **MONTH, today="2026-03-10").runs_out == "2026-03-01"


def test_today_is_not_over_and_teaches_nothing() -> None:
    sums = steady("2026-02-01", "2026-03-09") | {"2026-03-10": 1}
    burn = burn_down(sums, None, **MONTH, today="2026-03-10")
    assert burn.spent_nano == 901
    assert burn.to_come[0].day == "2026-03-10"
    assert burn.to_come[0].sum_nano == 1_000
    assert burn.end is not None
    assert burn.end.sum_nano == 3_100
    assert (burn.runs_out, burn.left_nano) == (None, None)


def test_today_never_costs_less_than_it_has() -> None:
    sums = steady("2026-02-01", "2026-03-09") | {"2026-03-10": 5_000}
    burn = burn_down(sums, 5_500, **MONTH, today="2026-03-10")
    assert burn.to_come[0].sum_nano == 5_900
    assert burn.end is not None
    assert burn.end.sum_nano == 8_000
    assert min(row.low_nano for row in burn.to_come) >= 5_900
    assert burn.runs_out == "2026-03-10"


def test_the_last_and_the_first_day_of_a_month() -> None:
    sums = steady("2026-02-01", "2026-03-31")
    last = burn_down(sums, None, **MONTH, today="2026-03-31")
    assert [row.day for row in last.to_come] == ["2026-03-31"]
    first = burn_down(sums, None, **MONTH, today="2026-03-01")
    assert (len(first.passed), len(first.to_come), first.end and first.end.sum_nano) == (1, 31, 3_100)


def test_a_month_that_is_over_needs_no_forecast() -> None:
    burn = burn_down(steady("2026-02-01", "2026-04-20"), 2_999, **MONTH, today="2026-04-20")
    assert (burn.to_come, burn.spent_nano, burn.runs_out) == ((), 3_100, "2026-03-30")
    assert burn.end is not None
    assert burn.end.sum_nano == 3_100


def test_too_little_history_gives_no_end_but_says_why() -> None:
    burn = burn_down(steady("2026-03-04", "2026-03-10"), 650, **MONTH, today="2026-03-10")
    assert (burn.to_come, burn.end, burn.spent_nano, burn.runs_out) == ((), None, 700, "2026-03-10")
    assert burn.reason == "6 days of history; a forecast needs 14"
    nothing = burn_down({}, 650, **MONTH, today="2026-03-10")
    assert (nothing.spent_nano, nothing.reason) == (0, "no usage was recorded")


def test_low_and_high_stand_around_and_only_grow() -> None:
    sums = {day: 100 + at * 37 % 50 for at, day in enumerate(steady("2026-01-01", "2026-03-10"))}
    burn = burn_down(sums, None, **MONTH, today="2026-03-10")
    for row in burn.to_come:
        assert burn.spent_nano <= row.low_nano <= row.sum_nano <= row.high_nano
    assert sorted(row.sum_nano for row in burn.to_come) == [row.sum_nano for row in burn.to_come]


def test_the_forecast_of_today_begins_today() -> None:
    made = forecast_today(steady("2026-02-01", "2026-03-10"), "2026-03-10", 3)
    assert [row.day for row in made.days] == ["2026-03-10", "2026-03-11", "2026-03-12"]
    assert made.history[-1][0] == "2026-03-09"
    assert forecast_today({}, "2026-03-10", 3).days == ()
    assert forecast_today({"2026-03-10": 5}, "2026-03-10", 3).days == ()


@pytest.mark.parametrize(
    ("day", "month"),
    [
        ("2026-02-11", ("2026-02-01", "2026-02-28")),
        ("2028-02-29", ("2028-02-01", "2028-02-29")),
        ("2026-12-31", ("2026-12-01", "2026-12-31")),
    ],
)
def test_months(day: str, month: tuple[str, str]) -> None:
    assert month_of(day) == month
