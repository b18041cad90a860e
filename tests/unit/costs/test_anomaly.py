"""Anomalies: every planted spike, next to no false alarm, and never a look at the day after."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from costs_trace import FIRST, HARD, MANY, Shape, make_costs, name_days

from maestro_dagster.costs.anomaly import explain_day, find_anomalies
from maestro_dagster.costs.anomaly_score import THRESHOLD, WARM_UP, score_days

SERIES = 1000 if os.environ.get("MAESTRO_SOAK") == "1" else 250
DAYS = 90
WEEKDAY = FIRST.weekday()
CALM = {name: MANY[name] for name in ("quiet", "plain", "flat", "growing")}


def plant(costs: Any, factor: float, seed: int = 11) -> tuple[Any, Any]:
    """Two days of each series, after the first four weeks, times the factor; and where they are."""
    draw = np.random.default_rng(seed)
    planted = np.zeros(costs.shape, dtype=bool)
    for row in planted:
        row[draw.choice(np.arange(WARM_UP, DAYS), 2, replace=False)] = True
    return np.where(planted, costs * factor, costs), planted


def flag(costs: Any) -> Any:
    return np.nan_to_num(score_days(costs, WEEKDAY).score)


@pytest.mark.parametrize("name", CALM)
def test_every_planted_spike_is_found_and_nearly_nothing_else(name: str) -> None:
    """At most one false alarm in 10,000 series-days judged; days deviate by up to 5 % of what is expected."""
    costs, planted = plant(make_costs(SERIES, DAYS, CALM[name], 2).astype(float), 1.8)
    scores = flag(costs)
    assert (scores[planted] > THRESHOLD).all()
    false = (np.abs(scores[~planted]) > THRESHOLD).sum()
    judged = (~planted[:, WARM_UP:]).sum()
    assert false <= max(judged / 10_000, 1), false


@pytest.mark.soak
@pytest.mark.parametrize("name", CALM)
def test_false_alarms_over_a_thousand_series(name: str) -> None:
    scores = flag(make_costs(1000, DAYS, CALM[name], 99).astype(float))
    assert (np.abs(scores) > THRESHOLD).sum() <= scores[:, WARM_UP:].size / 10_000


@pytest.mark.parametrize("name", ["quiet", "flat"])
def test_a_day_far_too_cheap_is_one_too(name: str) -> None:
    costs, planted = plant(make_costs(SERIES, DAYS, CALM[name], 2).astype(float), 0.4)
    assert (flag(costs)[planted] < -THRESHOLD).all()


def test_where_days_differ_wildly_a_spike_may_pass_but_alarms_stay_few() -> None:
    """Noise of 12 %: 1.8 times is then no clear sign. What is lost is sensitivity, not peace."""
    costs, planted = plant(make_costs(SERIES, DAYS, MANY["noisy"], 2).astype(float), 1.8)
    scores = flag(costs)
    found = (scores[planted] > THRESHOLD).mean()
    assert 0.4 < found < 0.95
    assert (np.abs(scores[~planted]) > THRESHOLD).sum() <= 5 * max(scores[~planted].size / 10_000, 1)


def test_no_day_is_judged_with_knowledge_of_a_later_one() -> None:
    """The scores of a history are the beginning of the scores of any longer one, accidents and jumps too."""
    costs, _ = plant(make_costs(40, DAYS, HARD["shifted"], 4).astype(float), 1.8)
    whole = score_days(costs, WEEKDAY)
    for end in (WARM_UP + 1, 45, 60, 77):
        part = score_days(costs[:, :end], WEEKDAY)
        np.testing.assert_array_equal(part.score, whole.score[:, :end])
        np.testing.assert_array_equal(part.expected, whole.expected[:, :end])


def test_a_weekday_is_compared_with_its_like() -> None:
    """A Sunday that costs as much as a working day is strange where Sundays are nearly free."""
    coding = np.where((np.arange(DAYS) + WEEKDAY) % 7 >= 5, 0.25, 1.0) * 1e11
    costs = coding * make_costs(1, DAYS, Shape(0.03, (0, 0)), 3)[0] / 1e12
    sunday = next(at for at in range(60, DAYS) if (at + WEEKDAY) % 7 == 6)
    steady = np.array([[1e11 if (at + WEEKDAY) % 7 < 5 else 2.5e10 for at in range(DAYS)]])
    assert not (np.abs(flag(steady)) > THRESHOLD).any()
    steady[0, sunday] = 1e11
    assert list(np.flatnonzero(flag(steady)[0] > THRESHOLD)) == [sunday]
    assert costs.shape == (DAYS,)


def test_a_new_level_alarms_for_five_days_and_is_then_learnt() -> None:
    costs = make_costs(1, DAYS, Shape(0.03, (0, 0)), 6).astype(float)
    costs[0, 60:] *= 3
    found = np.flatnonzero(np.abs(flag(costs)[0]) > THRESHOLD)
    assert list(found) == [60, 61, 62, 63, 64]
    costs[0, 80] *= 1.8
    assert 80 in np.flatnonzero(flag(costs)[0] > THRESHOLD), "the new level is watched as well"


def test_days_that_never_varied_may_vary_a_little() -> None:
    costs = np.full((1, DAYS), 1e9)
    costs[0, 50], costs[0, 60] = 1.05e9, 1.5e9
    assert list(np.flatnonzero(flag(costs)[0] > THRESHOLD)) == [60]


def history(costs: Any) -> list[tuple[str, int]]:
    return list(zip(name_days(len(costs)), map(int, costs), strict=True))


def test_anomalies_are_named_dated_and_priced() -> None:
    plain = [10**9] * DAYS
    spiked = [*plain[:70], 3 * 10**9, *plain[71:]]
    found = find_anomalies({"b": history(plain), "a": history(spiked), "new": history([0] * 80 + plain[80:])})
    (anomaly,) = found
    assert (anomaly.name, anomaly.day, anomaly.nano) == ("a", name_days(DAYS)[70], 3 * 10**9)
    assert anomaly.expected_nano == pytest.approx(10**9, abs=2)
    assert anomaly.to_json()["more_usd"].startswith(("2", "1.99"))
    assert find_anomalies({"a": history(spiked)}, since=name_days(DAYS)[71]) == ()
    assert find_anomalies({"a": history(spiked)}, least_nano=3 * 10**9) == ()
    tiny = [cost // 10**5 for cost in spiked]
    assert find_anomalies({"a": history(tiny)}) == (), "less than a cent"


def test_series_of_different_beginnings_are_judged_as_if_alone() -> None:
    rows = make_costs(6, DAYS, MANY["plain"], 8)
    series = {}
    for at, row in enumerate(rows):
        row[: 10 * (at % 3)] = 0
        row[75] *= 2
        series[f"s{at}"] = history(row)
    together = find_anomalies(series)
    alone = [found for name, rows in series.items() for found in find_anomalies({name: rows})]
    assert {(row.name, row.day, row.nano) for row in together} == {
        (row.name, row.day, row.nano) for row in alone
    }
    assert {row.name for row in together if row.day == name_days(DAYS)[75]} == set(series)


@pytest.mark.parametrize("days", [0, 1, WARM_UP])
def test_too_little_history_judges_nothing(days: int) -> None:
    assert find_anomalies({"a": history([10**9] * days)}) == ()
    assert find_anomalies({"a": history([0] * days)}) == ()


def test_causes_are_what_changed_most() -> None:
    day = "2026-03-29"
    before = ("2026-03-22", "2026-03-15", "2026-03-08", "2026-03-01")
    models = {
        "steady": dict.fromkeys((day, *before), 500),
        "doubled": {**dict.fromkeys(before, 100), day: 200},
        "gone": dict.fromkeys(before, 50),
        "new": {day: 70},
        "once": {before[0]: 10**9},
        "other day": {"2026-03-28": 10**9},
    }
    causes = explain_day(day, {"model": models})
    assert [(row.name, row.expected_nano, row.more_nano) for row in causes] == [
        ("doubled", 100, 100), ("new", 0, 70), ("gone", 50, -50),
    ]  # fmt: skip
    assert [row.name for row in explain_day(day, {"model": models, "flow": models}, most=1)] == [
        "doubled"
    ] * 2
