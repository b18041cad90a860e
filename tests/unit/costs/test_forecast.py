"""Forecasts: better than last week repeated on series shaped like published traces, and honest where not."""

from __future__ import annotations

import builtins
import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from costs_trace import FIRST, HARD, MANY, Shape, make_costs, name_days

from maestro_dagster.costs.forecast import Forecast, backtest_method, fill_days, forecast_costs, forecast_many
from maestro_dagster.costs.forecast_method import (
    METHODS,
    predict_auto_ets,
    predict_least_squares,
    predict_seasonal_naive,
)
from maestro_dagster.errors import CostError

PAST, AHEAD = 90, 30
COUNT = 1000 if os.environ.get("MAESTRO_SOAK") == "1" else 60
WEEKDAY = FIRST.weekday()
OTHERS = {"seasonal-naive": predict_seasonal_naive}


def history(costs: Any, first: int = 0) -> list[tuple[str, int]]:
    return list(zip(name_days(first + len(costs))[first:], map(int, costs), strict=True))


def mape(made: Any, costs: Any) -> float:
    return float((np.abs(made - costs) / costs).mean())


def measure(shape: Shape, ahead: int = AHEAD, seed: int = 7) -> tuple[float, float]:
    """MAPE over the days after 90 days of history: of least squares, of last week repeated."""
    costs = make_costs(COUNT, PAST + ahead, shape, seed).astype(float)
    past, coming = costs[:, :PAST], costs[:, PAST:]
    mine = predict_least_squares(past, ahead, WEEKDAY, 0.9).mean
    naive = predict_seasonal_naive(past, ahead, WEEKDAY, 0.9).mean
    return mape(mine, coming), mape(naive, coming)


@pytest.mark.parametrize("ahead", [7, 30])
@pytest.mark.parametrize("name", MANY)
def test_it_beats_last_week_repeated(name: str, ahead: int) -> None:
    """By a tenth at least; measured 0.68 to 0.80 of it over a week, 0.16 to 0.77 over a month."""
    mine, naive = measure(MANY[name], ahead)
    assert mine < 0.9 * naive, (mine, naive)


@pytest.mark.parametrize("name", HARD)
def test_where_it_does_not_the_backtest_chooses_the_other(name: str) -> None:
    """After a jump or with a level that wanders, least squares alone is worse: that is said, and mended."""
    mine, naive = measure(HARD[name])
    assert mine > naive, "then it belongs to the others"
    costs = make_costs(COUNT, PAST + AHEAD, HARD[name], 7)
    made = [forecast_costs(history(row[:PAST]), AHEAD) for row in costs]
    assert sum(forecast.method == "seasonal-naive" for forecast in made) > 0.5 * COUNT
    chosen = np.array([[day.nano for day in forecast.days] for forecast in made])
    assert mape(chosen, costs[:, PAST:]) < (mine + naive) / 2


@pytest.mark.parametrize("name", ["quiet", "plain", "noisy", "flat", "growing"])
def test_the_intervals_hold_what_they_promise(name: str) -> None:
    costs = make_costs(max(COUNT, 200), PAST + AHEAD, MANY[name], 3).astype(float)
    made = predict_least_squares(costs[:, :PAST], AHEAD, WEEKDAY, 0.9)
    coming = costs[:, PAST:]
    days = (np.abs(coming - made.mean) <= made.half).mean()
    months = np.abs(coming.sum(axis=1) - made.mean.sum(axis=1)) <= made.sum_half[:, -1]
    assert 0.86 <= days <= 0.94
    assert 0.80 <= months.mean() <= 0.97


def test_where_dear_days_follow_dear_days_months_are_less_sure() -> None:
    """Without minding that, 64 % of the months lay within the interval of 90 %; with it 74 %."""
    draw = np.random.default_rng(1)
    off = draw.normal(0, 0.05, (300, 140))
    for day in range(1, 140):
        off[:, day] = 0.6 * off[:, day - 1] + 0.8 * off[:, day]
    costs = 1e10 * (1 + off[:, 20:])
    made = predict_least_squares(costs[:, :PAST], AHEAD, WEEKDAY, 0.9)
    sums = np.abs(costs[:, PAST:].sum(axis=1) - made.mean.sum(axis=1))
    assert (sums <= made.sum_half[:, -1]).mean() > 0.7


def test_costs_of_a_plain_law_are_forecast_exactly() -> None:
    week = np.array([4, 4, 4, 4, 4, 1, 0]) * 10**9
    costs = [int(week[(WEEKDAY + at) % 7] * (100 + at) // 100) for at in range(60 + AHEAD)]
    made = forecast_costs(history(costs[:60]), AHEAD)
    assert made.method == "least-squares"
    for row, cost in zip(made.days, costs[60:], strict=True):
        assert abs(row.nano - cost) <= 10, row
        assert row.low_nano <= row.nano <= row.high_nano
    assert made.days[-1].sum_nano == sum(row.nano for row in made.days)
    assert [row.day for row in made.days] == name_days(90)[60:]


def test_one_accident_in_the_past_moves_nothing() -> None:
    costs = make_costs(1, PAST, MANY["quiet"], 1)[0]
    calm = forecast_costs(history(costs), AHEAD)
    costs[60] *= 20
    shaken = forecast_costs(history(costs), AHEAD)
    for before, after in zip(calm.days, shaken.days, strict=True):
        assert after.nano == pytest.approx(before.nano, rel=0.03)


@pytest.mark.parametrize("count", [0, 1, 13])
def test_with_too_little_history_it_says_so(count: int) -> None:
    made = forecast_costs(history([10**9] * count), AHEAD)
    assert (made.method, made.days, made.backtest) == ("", (), None)
    assert made.reason == f"{count} days of history; a forecast needs 14"


def test_days_before_the_first_use_are_no_history() -> None:
    made = forecast_costs(history([0] * 80 + [10**9] * 10), AHEAD)
    assert made.reason == "10 days of history; a forecast needs 14"
    assert forecast_costs(history([0] * 80), 1).reason.startswith("0 days")


def test_what_was_chosen_and_why_stands_in_it() -> None:
    few = forecast_costs(history(make_costs(1, 20, MANY["plain"], 1)[0]), 7)
    assert (few.method, few.backtest, few.naive) == ("least-squares", None, None)
    assert "too little history to compare" in few.reason
    many = forecast_costs(history(make_costs(1, 90, MANY["plain"], 1)[0]), 7)
    assert many.backtest is not None
    assert many.naive is not None
    assert (many.method, many.backtest.method, many.naive.method) == (
        "least-squares", "least-squares", "seasonal-naive",
    )  # fmt: skip
    assert many.backtest.days == 28
    asked = forecast_costs(history(make_costs(1, 90, MANY["plain"], 1)[0]), 7, method="seasonal-naive")
    assert (asked.method, asked.reason) == ("seasonal-naive", "as asked for")


def test_a_backtest_is_what_one_computes_by_hand() -> None:
    """Every week 100 but the last, which is 200: the last of four forecasts is off by the half, 50 %."""
    test = backtest_method(history([100] * 83 + [200] * 7), "seasonal-naive")
    assert test is not None
    assert (test.days, test.mape) == (28, 0.125)
    assert test.mase == pytest.approx(25 / (700 / 83))


@pytest.mark.parametrize("method", METHODS[:2])
def test_a_forecast_uses_the_past_alone_and_is_never_below_zero(method: str) -> None:
    falling = [max(2_000 - 40 * at, 0) * 10**6 + at % 3 for at in range(60)]
    made = forecast_costs(history(falling), 60, method=method)
    assert min(row.low_nano for row in made.days) >= 0
    assert all(isinstance(nano, int) for row in made.days for nano in (row.nano, row.high_nano, row.sum_nano))
    again = forecast_costs(history(falling), 60, method=method)
    assert again == made


@pytest.mark.parametrize("costs", [[0, 5] * 30, [7] * 60, [0] * 59 + [1], [1] + [0] * 59, [10**18] * 60])
@pytest.mark.parametrize("method", [None, "least-squares", "seasonal-naive"])
def test_odd_series_raise_nothing(costs: list[int], method: str | None) -> None:
    made = forecast_costs(history(costs), AHEAD, method=method)
    assert all(0 <= row.low_nano <= row.nano <= row.high_nano for row in made.days)
    assert all(row.sum_low_nano <= row.sum_nano <= row.sum_high_nano for row in made.days)
    if set(costs) == {7}:
        assert {row.nano for row in made.days} == {7}


def test_missing_days_cost_nothing_and_are_filled() -> None:
    assert fill_days({"2026-02-27": 1, "2026-03-01": 2, "2026-05-01": 3}, "2026-02-27", "2026-03-01") == [
        ("2026-02-27", 1), ("2026-02-28", 0), ("2026-03-01", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("days", [0, -1, 367])
def test_a_wrong_call_is_refused(days: int) -> None:
    with pytest.raises(CostError) as error:
        forecast_costs([], days)
    assert error.value.error_code == "forecast-days"
    with pytest.raises(CostError) as error:
        forecast_costs([], 1, method="magic")
    assert error.value.error_code == "forecast-method"


@pytest.mark.skipif(importlib.util.find_spec("statsforecast") is None, reason="needs the extra `forecast`")
def test_auto_ets_is_there_when_asked_for() -> None:
    costs = make_costs(2, PAST + 7, MANY["plain"], 5).astype(float)
    made = predict_auto_ets(costs[:, :PAST], 7, WEEKDAY, 0.9)
    assert mape(made.mean, costs[:, PAST:]) < 0.15
    assert (made.half > 0).all()
    result: Forecast = forecast_costs(history(costs[0, :PAST]), 7, method="auto-ets")
    assert result.method == "auto-ets"
    assert result.backtest is not None


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("statsforecast"):
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CostError) as error:
        forecast_costs(history([10**9] * 30), 7, method="auto-ets")
    assert error.value.error_code == "forecast-extra-missing"
    assert "maestro-dagster[forecast]" in error.value.remedy


def test_importing_loads_no_numbers() -> None:
    code = (
        "import sys\n"
        "import maestro_dagster.costs.forecast_outlook, maestro_dagster.costs.anomaly_report\n"
        "import maestro_dagster.costs.plot, maestro_dagster.costs.forecast_history\n"
        "import maestro_dagster.cli.cost_forecast, maestro_dagster.cli.cost_anomalies\n"
        "heavy = {'numpy', 'polars', 'pyarrow', 'duckdb', 'dagster', 'statsforecast'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_many_at_once_are_what_each_is_alone() -> None:
    """Of several lengths and methods, in their order; to the last figure of money."""
    draw = np.random.default_rng(5)
    shapes = [*MANY.values(), *HARD.values()]
    rows = [make_costs(1, 90, shapes[at % len(shapes)], at)[0] for at in range(40)]
    histories = [history(row[: int(draw.choice([0, 13, 14, 20, 34, 90]))]) for row in rows]
    histories[7] = [(day, 0) for day, _ in history(rows[7])]
    told: list[int] = []
    together = forecast_many(histories, AHEAD, progress=told.append)
    alone = [forecast_costs(one, AHEAD) for one in histories]
    assert [(one.method, one.reason, one.history) for one in together] == [
        (one.method, one.reason, one.history) for one in alone
    ]
    for mine, other in zip(together, alone, strict=True):
        for day, same in zip(mine.days, other.days, strict=True):
            assert day.day == same.day
            assert (day.nano, day.sum_high_nano) == pytest.approx((same.nano, same.sum_high_nano), rel=1e-9)
        assert (mine.backtest is None) == (other.backtest is None)
        if mine.backtest is not None and other.backtest is not None:
            assert mine.backtest.mape == pytest.approx(other.backtest.mape)
            assert mine.backtest.mase == pytest.approx(other.backtest.mase)
    assert {one.method for one in together} == {"", "least-squares", "seasonal-naive"}
    assert told == sorted(told)
    assert told[-1] == len(histories)


def test_a_thousand_names_are_fitted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four weeks of backtest and the forecast itself: five fits, however many names."""
    calls: list[int] = []

    def count(past: Any, *rest: Any) -> Any:
        calls.append(len(past))
        return predict_least_squares(past, *rest)

    monkeypatch.setattr("maestro_dagster.costs.forecast._PREDICT", {"least-squares": count, **OTHERS})
    rows = make_costs(1000, PAST, MANY["plain"], 1)
    made = forecast_many([history(row) for row in rows], AHEAD, method="least-squares")
    assert len(made) == 1000
    assert calls == [1000] * 5
