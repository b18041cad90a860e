"""How strange each day of many series is, judged from the days before it alone.

`score_days` takes [series, days] of nano-USD without gaps. A day's score is its distance from what its
weekday and the trend led to expect, in deviations: 1.4826 times the median absolute deviation of the days
before (Rousseeuw and Croux, 1993), which a few strange days do not move. Of few days the median is often far
too small by chance; so it counts as no less than what the mean of the same deviations says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from maestro_dagster.costs.forecast_method import WEEK, fit_least_squares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

WARM_UP: Final = 4 * WEEK  # days that are not judged: a weekday was not yet seen four times
THRESHOLD: Final = 5.0
_WINDOW: Final = 8 * WEEK  # days that a day is judged from
_SHIFT: Final = 5  # days in a row on the same side: no accident any more, but the new level
_FLOOR: Final = 0.02  # of what is expected: costs that never varied may still vary a little
_BASE: Final = 0.1  # of the mean: on a weekday that is nearly free, a little is not infinitely much
_NORMAL: Final = 1.4826  # makes a median absolute deviation a standard one
_NORMAL_MEAN: Final = 1.2533  # the same of a mean absolute deviation


@dataclass(frozen=True, slots=True)
class Scores:
    """[series, days]: what was expected and the score, above 0 for dearer; NaN for days not judged."""

    expected: Matrix
    score: Matrix


def score_days(costs: Matrix, weekday: int, threshold: float = THRESHOLD) -> Scores:
    """Judges every day from day `WARM_UP` on. `weekday` is that of the first day (Monday 0).

    A day beyond the threshold teaches nothing about the days after it. Five in a row on one side are a
    new level: what was learnt is then scaled to it.
    """
    import numpy as np

    learnt = costs.copy()
    expected = np.full_like(costs, np.nan)
    score = np.full_like(costs, np.nan)
    run = np.zeros(len(costs), dtype=np.int64)
    for day in range(WARM_UP, costs.shape[1]):
        begin = max(day - _WINDOW, 0)
        hoped, deviation = _expect(learnt[:, begin:day], (weekday + begin) % WEEK)
        expected[:, day] = hoped
        score[:, day] = (costs[:, day] - hoped) / deviation
        side = np.where(np.abs(score[:, day]) > threshold, np.sign(score[:, day]), 0).astype(np.int64)
        learnt[:, day] = np.where(side != 0, hoped, costs[:, day])
        run = np.where(side == 0, 0, np.where(np.sign(run) == side, run + side, side))
        shifted = np.abs(run) >= _SHIFT
        if shifted.any():
            _learn_level(learnt, costs, expected, shifted, day + 1)
            run[shifted] = 0
    return Scores(expected, score)


def _expect(past: Matrix, weekday: int) -> tuple[Matrix, Matrix]:
    """What the next day should cost, and its deviation; nano-USD, one of each a series."""
    import numpy as np

    days = past.shape[1]
    values = fit_least_squares(past, 1, weekday).values
    least = np.maximum(_BASE * past.mean(axis=1, keepdims=True), 1.0)
    share = np.abs(past - values[:, :days]) / np.maximum(values[:, :days], least)
    # The fit took as many freedoms as it has parameters, and is itself as unsure as its days are few.
    free = np.sqrt(days / (days - WEEK - 1) * (1 + (WEEK + 1) / days))
    off = np.maximum(_NORMAL * np.median(share, axis=1), _NORMAL_MEAN * share.mean(axis=1))
    spread = np.maximum(off * free, _FLOOR)
    hoped = values[:, days]
    return hoped, spread * np.maximum(hoped, least[:, 0])


def _learn_level(learnt: Matrix, costs: Matrix, expected: Matrix, rows: NDArray[np.bool_], end: int) -> None:
    import numpy as np

    begin = end - _SHIFT
    found = costs[rows, begin:end].sum(axis=1)
    ratio = found / np.maximum(expected[rows, begin:end].sum(axis=1), 1.0)
    learnt[rows, :end] *= ratio[:, None]
    learnt[rows, begin:end] = costs[rows, begin:end]
