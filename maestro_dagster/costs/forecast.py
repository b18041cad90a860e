"""What the days to come will cost, how sure that is, and how well the method did on days that passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from maestro_dagster.costs.forecast_method import (
    AUTO_ETS,
    LEAST_SQUARES,
    METHODS,
    SEASONAL_NAIVE,
    WEEK,
    Prediction,
    predict_auto_ets,
    predict_least_squares,
    predict_seasonal_naive,
)
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    from maestro_dagster.costs.forecast_method import Matrix

LEAST_HISTORY: Final = 2 * WEEK
LEVEL: Final = 0.9
MOST_DAYS: Final = 366
_HISTORY: Final = 90  # days that are looked at; older ones tell of another time
_ORIGINS: Final = 4  # weeks that are forecast again from what was known before each
_PREDICT: Final[Mapping[str, Callable[[Matrix, int, int, float], Prediction]]] = {
    LEAST_SQUARES: predict_least_squares,
    SEASONAL_NAIVE: predict_seasonal_naive,
    AUTO_ETS: predict_auto_ets,
}


@dataclass(frozen=True, slots=True)
class ForecastDay:
    """One day to come, nano-USD, none below 0: what is expected and the interval around it.

    `sum_*` are the same for all forecast days up to and including this one.
    """

    day: str
    nano: int
    low_nano: int
    high_nano: int
    sum_nano: int
    sum_low_nano: int
    sum_high_nano: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """How far forecasts of `days` past days were off, each made from earlier days only (rolling origin).

    `mape`: mean of |forecast - cost| / cost over days that cost something, 0.05 is 5 %. `mase`: mean
    absolute error against that of the seasonal naive forecast within the history (Hyndman and Koehler,
    2006); below 1 is better. None: cannot be computed, as every day cost nothing or the same.
    """

    method: str
    days: int
    mape: float | None
    mase: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """`method` is what was used, "" when nothing can be forecast; `reason` says why in a sentence.

    `history` is what was looked at, `fitted` what the method made of it; (day, nano-USD).
    """

    method: str
    reason: str
    history: tuple[tuple[str, int], ...]
    fitted: tuple[tuple[str, int], ...]
    days: tuple[ForecastDay, ...]
    backtest: Backtest | None
    naive: Backtest | None
    level: float = LEVEL


def forecast_costs(
    history: Sequence[tuple[str, int]], days: int, *, method: str | None = None, level: float = LEVEL
) -> Forecast:
    """Forecasts the `days` after the history.

    Args:
        history: (day, nano-USD) of complete days, ascending without gaps (`fill_days`). Days before the
            first that cost something are left out, and all but the last 90.
        days: 1 to 366.
        method: one of `METHODS`; None: least squares, or the seasonal naive where that did better.
        level: of the intervals: 0.9 means that 9 of 10 days are to lie within.

    Raises:
        CostError: `forecast-days`, `forecast-method`, `forecast-extra-missing`.

    """
    if not 1 <= days <= MOST_DAYS:
        raise CostError(
            f"cannot forecast {days} days", remedy=f"ask for 1 to {MOST_DAYS}", code="forecast-days"
        )
    if method is not None and method not in METHODS:
        raise CostError(
            f"there is no method {method!r}",
            remedy=f"choose one of {', '.join(METHODS)}",
            code="forecast-method",
        )
    known = _trim_history(history)
    if len(known) < LEAST_HISTORY:
        reason = f"{len(known)} days of history; a forecast needs {LEAST_HISTORY}"
        return Forecast("", reason, known, (), (), None, None, level)
    tests = _test_methods(known, method)
    chosen, reason = _choose_method(method, tests)
    made = _PREDICT[chosen](_matrix(known), days, _weekday(known), level)
    return Forecast(
        chosen,
        reason,
        known,
        tuple((day, round(float(value))) for (day, _), value in zip(known, made.fitted[0], strict=True)),
        _list_days(known[-1][0], made),
        tests.get(chosen),
        tests.get(SEASONAL_NAIVE),
        level,
    )


def fill_days(sums: Mapping[str, int], first: str, last: str) -> list[tuple[str, int]]:
    """(day, nano-USD) of every day from first to last; a day that nothing is known of cost nothing."""
    begin = date.fromisoformat(first)
    count = (date.fromisoformat(last) - begin).days + 1
    names = ((begin + timedelta(days=at)).isoformat() for at in range(count))
    return [(name, sums.get(name, 0)) for name in names]


def backtest_method(history: Sequence[tuple[str, int]], method: str) -> Backtest | None:
    """Forecasts each of the last four weeks from the days before it; None without three weeks of history."""
    import numpy as np

    past, weekday = _matrix(history), _weekday(history)
    days = past.shape[1]
    begins = [days - WEEK * back for back in range(_ORIGINS, 0, -1)]
    begins = [begin for begin in begins if begin >= LEAST_HISTORY]
    if not begins:
        return None
    off, cost = [], []
    for begin in begins:
        made = _PREDICT[method](past[:, :begin], WEEK, weekday, LEVEL)
        cost.append(past[0, begin : begin + WEEK])
        off.append(np.abs(made.mean[0] - cost[-1]))
    errors, costs = np.concatenate(off), np.concatenate(cost)
    within = float(np.abs(past[0, WEEK:] - past[0, :-WEEK]).mean())
    some = costs > 0
    mape = float((errors[some] / costs[some]).mean()) if some.any() else None
    return Backtest(method, len(costs), mape, float(errors.mean()) / within if within > 0 else None)


def _test_methods(known: Sequence[tuple[str, int]], method: str | None) -> dict[str, Backtest]:
    names = dict.fromkeys((method or LEAST_SQUARES, SEASONAL_NAIVE))
    found = {name: backtest_method(known, name) for name in names}
    return {name: test for name, test in found.items() if test is not None}


def _choose_method(method: str | None, tests: Mapping[str, Backtest]) -> tuple[str, str]:
    if method is not None:
        return method, "as asked for"
    mine, naive = tests.get(LEAST_SQUARES), tests.get(SEASONAL_NAIVE)
    if mine is None or naive is None:
        return LEAST_SQUARES, f"too little history to compare methods; {3 * WEEK} days are needed"
    if mine.mase is None or naive.mase is None:
        return SEASONAL_NAIVE, "every week cost the same"
    better = naive.mase < mine.mase
    said = f"in the backtest least squares had a MASE of {mine.mase:.2f}, seasonal naive {naive.mase:.2f}"
    return (SEASONAL_NAIVE if better else LEAST_SQUARES), said


def _trim_history(history: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    first = next((at for at, (_, nano) in enumerate(history) if nano > 0), len(history))
    return tuple(history[first:][-_HISTORY:])


def _matrix(history: Sequence[tuple[str, int]]) -> Matrix:
    import numpy as np

    return np.array([[nano for _, nano in history]], dtype=np.float64)


def _weekday(history: Sequence[tuple[str, int]]) -> int:
    return date.fromisoformat(history[0][0]).weekday()


def _list_days(last: str, made: Prediction) -> tuple[ForecastDay, ...]:
    """Here, and only here, doubles become whole nano-USD."""
    begin = date.fromisoformat(last)
    rows = []
    total = 0
    for at, (mean, half, wide) in enumerate(
        zip(made.mean[0], made.half[0], made.sum_half[0], strict=True), 1
    ):
        nano, reach, sum_reach = max(round(float(mean)), 0), round(float(half)), round(float(wide))
        total += nano
        rows.append(
            ForecastDay(
                (begin + timedelta(days=at)).isoformat(),
                nano,
                max(nano - reach, 0),
                nano + reach,
                total,
                max(total - sum_reach, 0),
                total + sum_reach,
            )
        )
    return tuple(rows)
