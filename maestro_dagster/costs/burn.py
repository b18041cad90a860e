"""How a budget is used up: its period to date, what is to come, and the day on which it runs out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BurnDay:
    """What the period has cost up to and including a day, nano-USD.

    For a day that has passed the three are equal; for one to come they are the forecast and its interval.
    """

    day: str
    sum_nano: int
    low_nano: int
    high_nano: int


@dataclass(frozen=True, slots=True)
class BurnDown:
    """A budget over its period. Days are YYYY-MM-DD of UTC; `first` and `last` belong to the period.

    `today` is the last day with usage counted; `to_come` is empty when nothing can be forecast (`reason`
    says why). `runs_out` is the first day on which the sum reaches the limit, in the past or as forecast.
    """

    first: str
    last: str
    today: str
    limit_nano: int
    passed: tuple[BurnDay, ...]
    to_come: tuple[BurnDay, ...]
    runs_out: str | None
    reason: str = ""

    @property
    def spent_nano(self) -> int:
        return self.passed[-1].sum_nano if self.passed else 0

    @property
    def left_nano(self) -> int:
        """Below 0 when more was spent than the budget has."""
        return self.limit_nano - self.spent_nano

    @property
    def end(self) -> BurnDay | None:
        """The period's last day; None when it cannot be said."""
        days = self.to_come or self.passed
        return days[-1] if days and days[-1].day == self.last else None
