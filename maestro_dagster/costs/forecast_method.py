"""How days to come are predicted from days past: for many series of costs at once, in doubles.

Everything here takes `past` as [series, days] of nano-USD, ascending without gaps, and the weekday of its
first day (Monday 0). Sources: Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed.
(5.2 seasonal naive, 5.5 prediction intervals, 7 regression); Abramowitz and Stegun, 26.7.5 (Student's t).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

LEAST_SQUARES: Final = "least-squares"
SEASONAL_NAIVE: Final = "seasonal-naive"
AUTO_ETS: Final = "auto-ets"
METHODS: Final = (LEAST_SQUARES, SEASONAL_NAIVE, AUTO_ETS)
WEEK: Final = 7
TREND_FROM: Final = 4 * WEEK  # days of history: with less, a slope is mostly noise, and none is fitted
_MEMORY: Final = 0.98  # weight of a day against that of the day after it: after five weeks half is left
_ROUNDS: Final = 4  # of alternating between the weekdays and the trend; more change nothing
_ACCIDENT_LEAST: Final = 0.5  # of the usual cost; growth is no accident
_ACCIDENT: Final = 5.0  # deviations from which on a past day is an accident that teaches nothing


@dataclass(frozen=True, slots=True)
class Prediction:
    """[series, days to come]: what is expected, half the width of its interval, and the same of the sums.

    `sum_half` belongs to the sum of all days up to that one: errors of days lean on each other, so it is
    no sum of squares. `fitted` is [series, days past]: what the method made of the past itself.
    """

    mean: Matrix
    half: Matrix
    sum_half: Matrix
    fitted: Matrix


@dataclass(frozen=True, slots=True)
class Fit:
    """Costs as the product of a weekday's share and a straight line over time.

    `values` is [series, days past and to come]; `spread` [series] is the deviation of a day from it, as a
    share of the value; `echo` [series] how much a day's deviation is that of the day before, 0 to 0.9.
    """

    values: Matrix
    spread: Matrix
    echo: Matrix


def predict_least_squares(past: Matrix, ahead: int, weekday: int, level: float) -> Prediction:
    """Least squares on trend and weekday, young days counting more; accidents of the past are left out."""
    import numpy as np

    days = past.shape[1]
    fit = fit_least_squares(replace_accidents(past), ahead, weekday)
    mean = fit.values[:, days:]
    shape = _design(days, ahead, weekday)
    weights = _weights(days)
    inner = np.linalg.pinv((shape[:days] * weights[:, None]).T @ shape[:days])
    cover = inner @ ((shape[:days] * (weights**2)[:, None]).T @ shape[:days]) @ inner
    coming = shape[days:]
    leverage = np.einsum("hi,ij,hj->h", coming, cover, coming)
    quantile = _student(level, days - shape.shape[1])
    half = quantile * fit.spread[:, None] * mean * np.sqrt(1 + leverage)
    own = (mean**2).cumsum(axis=1) * ((1 + fit.echo) / (1 - fit.echo))[:, None]
    leaning = (mean[:, :, None] * coming[None]).cumsum(axis=1)
    shared = np.einsum("shi,ij,shj->sh", leaning, cover, leaning)
    return Prediction(
        mean, half, quantile * fit.spread[:, None] * np.sqrt(own + shared), fit.values[:, :days]
    )


def predict_seasonal_naive(past: Matrix, ahead: int, weekday: int, level: float) -> Prediction:
    """Each day costs what it cost a week before. The baseline that a method has to beat."""
    import numpy as np

    del weekday
    days = past.shape[1]
    mean = past[:, -WEEK:][:, np.arange(ahead) % WEEK]
    steps = past[:, WEEK:] - past[:, :-WEEK]
    spread = np.sqrt((steps**2).mean(axis=1, keepdims=True)) if days > WEEK else np.zeros((len(past), 1))
    weeks = np.arange(ahead) // WEEK + 1.0
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    # The sum of a weekday's k forecasts of a random walk varies as k (k+1) (2k+1) / 6.
    walks = np.zeros(ahead)
    for first in range(min(WEEK, ahead)):
        count = np.maximum((np.arange(ahead) - first) // WEEK + 1, 0)
        walks += count * (count + 1) * (2 * count + 1) / 6
    fitted = np.concatenate([past[:, :WEEK], past[:, :-WEEK]], axis=1)[:, :days]
    return Prediction(mean, quantile * spread * np.sqrt(weeks), quantile * spread * np.sqrt(walks), fitted)


def predict_auto_ets(past: Matrix, ahead: int, weekday: int, level: float) -> Prediction:
    """AutoETS of statsforecast, a state space model chosen by its information criterion; slow.

    Its intervals of sums are those of its days added up: never too narrow, mostly too wide.
    Raises CostError (`forecast-extra-missing`).
    """
    import numpy as np

    try:
        from statsforecast.models import AutoETS
    except ImportError:
        raise CostError(
            "AutoETS needs the package statsforecast, which is not installed",
            remedy="install maestro-dagster[forecast], or choose least-squares",
            code="forecast-extra-missing",
        ) from None
    del weekday
    percent = round(100 * level)
    rows = []
    for series in past:
        scale = float(series.max()) or 1.0  # its optimiser expects no numbers of 10^18
        found = AutoETS(season_length=WEEK).forecast(series / scale, ahead, level=[percent], fitted=True)
        wide = (found[f"hi-{percent}"] - found[f"lo-{percent}"]) / 2
        rows.append(tuple(scale * part for part in (found["mean"], wide, wide.cumsum(), found["fitted"])))
    mean, half, sum_half, fitted = (np.stack(parts).astype(np.float64) for parts in zip(*rows, strict=True))
    return Prediction(np.maximum(mean, 0.0), half, sum_half, fitted)


def fit_least_squares(past: Matrix, ahead: int, weekday: int) -> Fit:
    """Alternates between the two factors: each, with the other held, is a linear least-squares problem."""
    import numpy as np

    days = past.shape[1]
    weights = _weights(days)
    share_of: Matrix = np.eye(WEEK)[(np.arange(days + ahead) + weekday) % WEEK]
    time = (np.arange(days + ahead) - (days - 1)) / days
    line = np.repeat(past.mean(axis=1, keepdims=True), days + ahead, axis=1)
    seasonal = np.ones_like(line)
    for _ in range(_ROUNDS):
        known = line[:, :days]
        shares = ((weights * past * known) @ share_of[:days]) / _positive(
            (weights * known**2) @ share_of[:days]
        )
        seasonal = shares / _positive(shares.mean(axis=1, keepdims=True)) @ share_of.T
        line = _fit_line(past, weights, seasonal[:, :days], time)
    values = np.maximum(line * seasonal, 0.0)
    return Fit(values, *_judge_fit(past, values[:, :days], weights))


def replace_accidents(past: Matrix) -> Matrix:
    """The past with the usual cost on days that were no usual days, which then teach nothing.

    A day is compared with the median of its weekday in the two weeks before and after it, which one
    accident does not move and a new level only once.
    """
    import numpy as np

    days = past.shape[1]
    around = np.full((5, *past.shape), np.nan)
    for row, weeks in zip(around, (-2, -1, 0, 1, 2), strict=True):
        begin, end = max(WEEK * weeks, 0), days + min(WEEK * weeks, 0)
        row[:, begin:end] = past[:, begin - WEEK * weeks : end - WEEK * weeks]
    usual = np.nanmedian(around, axis=0)
    off = past - usual
    spread = 1.4826 * np.median(np.abs(off) / _positive(usual), axis=1, keepdims=True)
    reach = np.maximum(_ACCIDENT * spread, _ACCIDENT_LEAST) * usual
    calm = (spread > 0) & (usual > 0)
    calmed: Matrix = np.where(calm & (np.abs(off) > reach), usual, past)
    return calmed


def _fit_line(past: Matrix, weights: Matrix, seasonal: Matrix, time: Matrix) -> Matrix:
    days = past.shape[1]
    mass = weights * seasonal**2
    level, target = mass.sum(axis=1), (weights * seasonal * past).sum(axis=1)
    if days < TREND_FROM:
        flat: Matrix = (target / _positive(level))[:, None] + 0.0 * time
        return flat
    slope = (mass * time[:days]).sum(axis=1)
    bend = (mass * time[:days] ** 2).sum(axis=1)
    tilt = (weights * seasonal * past * time[:days]).sum(axis=1)
    common = _positive(level * bend - slope**2)
    start = (target * bend - tilt * slope) / common
    rise = (level * tilt - slope * target) / common
    return _positive(start[:, None] + rise[:, None] * time)


def _judge_fit(past: Matrix, values: Matrix, weights: Matrix) -> tuple[Matrix, Matrix]:
    import numpy as np

    off = past - values
    held = weights.sum() ** 2 / (weights**2).sum()  # days that these weights are worth
    free = max(held - WEEK - 1, 1.0)
    loss = (weights * off**2).sum(axis=1) / _positive((weights * values**2).sum(axis=1))
    share = off / _positive(values)
    both = (share[:, 1:] * share[:, :-1]).sum(axis=1) / _positive((share**2).sum(axis=1))
    return np.sqrt(loss * held / free), np.clip(both, 0.0, 0.9)


def _design(days: int, ahead: int, weekday: int) -> Matrix:
    """[days past and to come, weekdays and, with enough history, time]: what a relative error leans on."""
    import numpy as np

    time = (np.arange(days + ahead) - (days - 1)) / days
    shape = np.eye(WEEK)[(np.arange(days + ahead) + weekday) % WEEK]
    return np.column_stack([shape, time]) if days >= TREND_FROM else shape


def _weights(days: int) -> Matrix:
    import numpy as np

    return _MEMORY ** np.arange(days - 1, -1, -1.0)


def _positive(values: Matrix) -> Matrix:
    """A divisor that is never 0, and a cost that is never below it."""
    import numpy as np

    positive: Matrix = np.maximum(values, 1e-9)
    return positive


def _student(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, as an expansion around the normal one."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    free = max(freedom, 1)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
