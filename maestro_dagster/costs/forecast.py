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
_AT_ONCE: Final = 1024  # series in one matrix: some 10 MB
_SLOW_AT_ONCE: Final = 4  # of a method that fits one after the other, so that its progress is seen
_ORIGINS: Final = 4  # weeks that are forecast again from what was known before each
_PREDICT: Final[Mapping[str, Callable[[Matrix, int, int, float], Prediction]]] = {
    LEAST_SQUARES: predict_least_squares,
    SEASONAL_NAIVE: predict_seasonal_naive,
    AUTO_ETS: predict_auto_ets,
}

History = tuple[tuple[str, int], ...]


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
    return forecast_many([history], days, method=method, level=level)[0]


def forecast_many(
    histories: Sequence[Sequence[tuple[str, int]]],
    days: int,
    *,
    method: str | None = None,
    level: float = LEVEL,
    progress: Callable[[int], None] | None = None,
) -> list[Forecast]:
    """The same for many histories at once, in their order: those of one length and begin are one matrix.

    `progress` is told how many are done so far. Raises CostError as `forecast_costs` does.
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
    alike: dict[tuple[int, str], list[int]] = {}
    known = [_trim_history(history) for history in histories]
    for at, row in enumerate(known):
        alike.setdefault((len(row), row[0][0] if row else ""), []).append(at)
    found: dict[int, Forecast] = {}
    most = _SLOW_AT_ONCE if method == AUTO_ETS else _AT_ONCE
    for places in alike.values():
        for begin in range(0, len(places), most):
            some = places[begin : begin + most]
            made = _forecast_alike([known[at] for at in some], days, method, level)
            found.update(zip(some, made, strict=True))
            if progress is not None:
                progress(len(found))
    return [found[at] for at in range(len(known))]


def _forecast_alike(known: Sequence[History], days: int, method: str | None, level: float) -> list[Forecast]:
    """Forecasts of histories of the same days."""
    count = len(known[0])
    if count < LEAST_HISTORY:
        reason = f"{count} days of history; a forecast needs {LEAST_HISTORY}"
        return [Forecast("", reason, row, (), (), None, None, level) for row in known]
    past, weekday = _matrix(known), _weekday(known[0])
    tests = _test_methods(past, weekday, method)
    choices = [_choose_method(method, each) for each in tests]
    found: dict[int, Forecast] = {}
    for chosen in dict.fromkeys(name for name, _ in choices):
        places = [at for at, (name, _) in enumerate(choices) if name == chosen]
        made = _PREDICT[chosen](past[places], days, weekday, level)
        for row, at in enumerate(places):
            fitted = zip(known[at], made.fitted[row].tolist(), strict=True)
            found[at] = Forecast(
                chosen,
                choices[at][1],
                known[at],
                tuple((day, round(value)) for (day, _), value in fitted),
                _list_days(known[at][-1][0], made, row),
                tests[at].get(chosen),
                tests[at].get(SEASONAL_NAIVE),
                level,
            )
    return [found[at] for at in range(len(known))]


def fill_days(sums: Mapping[str, int], first: str, last: str) -> list[tuple[str, int]]:
    """(day, nano-USD) of every day from first to last; a day that nothing is known of cost nothing."""
    begin = date.fromisoformat(first)
    count = (date.fromisoformat(last) - begin).days + 1
    names = ((begin + timedelta(days=at)).isoformat() for at in range(count))
    return [(name, sums.get(name, 0)) for name in names]


def backtest_method(history: Sequence[tuple[str, int]], method: str) -> Backtest | None:
    """Forecasts each of the last four weeks from the days before it; None without three weeks of history."""
    return _backtest(_matrix([history]), _weekday(history), method)[0]


def _backtest(past: Matrix, weekday: int, method: str) -> list[Backtest | None]:
    """One for each series of `past`, [series, days]."""
    import numpy as np

    days = past.shape[1]
    begins = [days - WEEK * back for back in range(_ORIGINS, 0, -1)]
    begins = [begin for begin in begins if begin >= LEAST_HISTORY]
    if not begins:
        return [None] * len(past)
    made = [_PREDICT[method](past[:, :begin], WEEK, weekday, LEVEL).mean for begin in begins]
    costs = past[:, begins[0] :]
    errors = np.abs(np.concatenate(made, axis=1) - costs)
    within = np.abs(past[:, WEEK:] - past[:, :-WEEK]).mean(axis=1)
    some = costs > 0
    shares = np.divide(errors, costs, out=np.zeros_like(errors), where=some).sum(axis=1)
    rows = zip(
        *(part.tolist() for part in (shares, some.sum(axis=1), errors.mean(axis=1), within)), strict=True
    )
    return [
        Backtest(method, costs.shape[1], share / dear if dear else None, error / usual if usual > 0 else None)
        for share, dear, error, usual in rows
    ]


def _test_methods(past: Matrix, weekday: int, method: str | None) -> list[dict[str, Backtest]]:
    names = dict.fromkeys((method or LEAST_SQUARES, SEASONAL_NAIVE))
    found: list[dict[str, Backtest]] = [{} for _ in past]
    for name in names:
        for tests, test in zip(found, _backtest(past, weekday, name), strict=True):
            if test is not None:
                tests[name] = test
    return found


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


def _trim_history(history: Sequence[tuple[str, int]]) -> History:
    first = next((at for at, (_, nano) in enumerate(history) if nano > 0), len(history))
    return tuple(history[first:][-_HISTORY:])


def _matrix(histories: Sequence[Sequence[tuple[str, int]]]) -> Matrix:
    import numpy as np

    return np.array([[nano for _, nano in history] for history in histories], dtype=np.float64)


def _weekday(history: Sequence[tuple[str, int]]) -> int:
    return date.fromisoformat(history[0][0]).weekday()


def _list_days(last: str, made: Prediction, series: int) -> tuple[ForecastDay, ...]:
    """Here, and only here, doubles become whole nano-USD."""
    begin = date.fromisoformat(last)
    rows = []
    total = 0
    for at, (mean, half, wide) in enumerate(
        zip(*(part[series].tolist() for part in (made.mean, made.half, made.sum_half)), strict=True), 1
    ):
        nano, reach, sum_reach = max(round(mean), 0), round(half), round(wide)
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
