"""What the days to come will cost."""

from __future__ import annotations

from dataclasses import dataclass


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
