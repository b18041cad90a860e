"""Daily costs as published traces of cloud and model usage shape them, made from a seed.

What is taken from where (only shapes are: no record of any trace is contained here):

- Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020; Azure Functions trace of July 2019): load
  follows the hour and the day of the week, over a constant base of about half the peak.
- Wang et al., "BurstGPT" (arXiv:2401.17644; Azure OpenAI over 213 days): requests come in bursts that a
  Gamma distribution describes; conversations follow the week, API use hardly does.
- Stojkovic et al., "DynamoLLM" (arXiv:2408.00741; Azure LLM inference trace 2024): coding assistance nearly
  stops at the weekend, conversation does not.
- Joosen et al., "How Does It Function?" (arXiv:2312.10127; Huawei serverless over 7 months): strong
  periods, sizes over many orders of magnitude, changes of level.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = date(2026, 1, 1)  # a Thursday
WEEKENDS = (0.25, 0.55, 0.8, 1.0)  # of a working day: coding, business, conversation, API


@dataclass(frozen=True)
class Shape:
    """What a set of series is like. `noise` is about the deviation of a day from what is expected of it."""

    noise: float = 0.05
    growth: tuple[float, float] = (-0.1, 0.4)  # over 90 days; drawn for each series
    holidays: int = 0  # working days that are like a Sunday
    shift: float = 1.0  # times this from a day in the second third on
    wander: float = 0.0  # of a slow random walk of the level, a day


MANY = {
    "quiet": Shape(noise=0.02),
    "plain": Shape(noise=0.05),
    "noisy": Shape(noise=0.12),
    "flat": Shape(noise=0.05, growth=(0.0, 0.0)),
    "growing": Shape(noise=0.05, growth=(0.8, 2.0)),
    "holidays": Shape(noise=0.05, holidays=3),
}
HARD = {
    "shifted": Shape(noise=0.05, shift=2.5),
    "wandering": Shape(noise=0.02, wander=0.06),
}


def make_costs(count: int, days: int, shape: Shape, seed: int) -> NDArray[np.int64]:
    """[count, days] of nano-USD, each day the sum of 24 hours of bursts."""
    draw = np.random.default_rng(seed)
    level = 10.0 ** draw.uniform(-1, 3, (count, 1))  # 0.1 to 1,000 USD a day
    time = np.arange(days)
    weekend = draw.choice(WEEKENDS, (count, 1))
    resting = np.array([(FIRST + timedelta(days=int(at))).weekday() >= 5 for at in time])[None, :].repeat(
        count, 0
    )
    for row in range(count if shape.holidays else 0):
        resting[row, draw.choice(days, shape.holidays, replace=False)] = True
    expected = level * np.where(resting, weekend, 1.0)
    expected = expected * (1 + draw.uniform(*shape.growth, (count, 1)) * time / 90)
    if shape.shift != 1.0:
        since = draw.integers(days // 3, 2 * days // 3, (count, 1))
        expected = np.where(time >= since, expected * shape.shift, expected)
    if shape.wander:
        expected = expected * np.exp(draw.normal(0, shape.wander, (count, days)).cumsum(axis=1))
    hours = 0.5 + 0.5 * np.clip(np.sin((np.arange(24) - 7) / 14 * np.pi), 0, None)  # base and working day
    hours /= hours.sum()
    form = (hours**2).sum() / shape.noise**2  # so that a day deviates by `noise`
    bursts = draw.gamma(form, 1 / form, (count, days, 24)) @ hours
    return np.rint(expected * bursts * 1e9).astype(np.int64)


def name_days(count: int) -> list[str]:
    return [(FIRST + timedelta(days=at)).isoformat() for at in range(count)]
