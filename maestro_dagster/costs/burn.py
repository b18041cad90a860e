"""How a budget is used up: its period to date, what is to come, and the day on which it runs out."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from maestro_dagster.costs.forecast import fill_days, forecast_costs

if TYPE_CHECKING:
    from maestro_dagster.costs.forecast import Forecast, ForecastDay


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
    """A budget, or just costs, over a period from `first` to `last`. Days are YYYY-MM-DD of UTC.

    `passed` ends with `today` as far as it has gone. `to_come` begins with today's end; it is empty when the
    period is over or nothing can be forecast (`reason` says why). `runs_out` is the first day on which the
    sum reaches the limit, in the past or as forecast.
    """

    first: str
    last: str
    today: str
    limit_nano: int | None
    passed: tuple[BurnDay, ...]
    to_come: tuple[BurnDay, ...]
    runs_out: str | None
    reason: str = ""

    @property
    def spent_nano(self) -> int:
        return self.passed[-1].sum_nano if self.passed else 0

    @property
    def left_nano(self) -> int | None:
        """Below 0 when more was spent than the budget has; None without a budget."""
        return None if self.limit_nano is None else self.limit_nano - self.spent_nano

    @property
    def end(self) -> BurnDay | None:
        """The period's last day; None when it cannot be said."""
        days = self.to_come or (self.passed if self.today > self.last else ())
        return days[-1] if days else None


def burn_down(
    sums: Mapping[str, int],
    limit_nano: int | None,
    *,
    first: str,
    last: str,
    today: str,
    forecast: Forecast | None = None,
) -> BurnDown:
    """The period from `first` to `last` of a budget, seen on `today` (days of UTC).

    Args:
        sums: day -> nano-USD that the budget's scope cost, of the period and of the time before it that
            the forecast learns from; an absent day cost nothing.
        limit_nano: of the budget; None without one.
        first: of the period.
        last: of the period.
        today: counts as far as it has gone, and its rest is forecast: it never costs less than it has.
        forecast: of `forecast_today` at least up to `last`, when the caller has it already.

    """
    passed = _add_up(fill_days(sums, first, min(today, last)))
    left = (date.fromisoformat(last) - date.fromisoformat(today)).days
    if left < 0 or not sums:
        reason = "" if sums else "no usage was recorded"
        return BurnDown(first, last, today, limit_nano, passed, (), _run_out(passed, limit_nano), reason)
    forecast = forecast or forecast_today(sums, today, left + 1)
    spent_before = passed[-2].sum_nano if len(passed) > 1 else 0
    to_come = tuple(_continue(forecast.days[: left + 1], spent_before, sums.get(today, 0)))
    if not to_come:
        runs_out = _run_out(passed, limit_nano)
        return BurnDown(first, last, today, limit_nano, passed, (), runs_out, forecast.reason)
    runs_out = _run_out((*passed, *to_come), limit_nano)
    return BurnDown(first, last, today, limit_nano, passed, to_come, runs_out, "")


def forecast_today(sums: Mapping[str, int], today: str, days: int, method: str | None = None) -> Forecast:
    """Forecasts `days` from today on; what today has cost so far teaches nothing, as it is not over.

    `sums` is day -> nano-USD. Raises CostError as `forecast_costs` does.
    """
    return forecast_costs(past_days(sums, today), days, method=method)


def past_days(sums: Mapping[str, int], today: str) -> list[tuple[str, int]]:
    """The history up to yesterday, for `forecast_costs`; `sums` is day -> nano-USD."""
    yesterday = (date.fromisoformat(today) - timedelta(days=1)).isoformat()
    begin = min(min(sums, default=yesterday), yesterday)
    return fill_days(sums, begin, yesterday)


def month_of(day: str) -> tuple[str, str]:
    """First and last day of the month that a day is in."""
    there = date.fromisoformat(day)
    length = monthrange(there.year, there.month)[1]
    return there.replace(day=1).isoformat(), there.replace(day=length).isoformat()


def _add_up(days: list[tuple[str, int]]) -> tuple[BurnDay, ...]:
    rows = []
    total = 0
    for day, nano in days:
        total += nano
        rows.append(BurnDay(day, total, total, total))
    return tuple(rows)


def _continue(days: tuple[ForecastDay, ...], spent_before: int, today_nano: int) -> Iterator[BurnDay]:
    """Sums of the period for today and the days to come. Today at least what it has cost already."""
    more = max(today_nano - days[0].nano, 0) if days else 0
    floor = spent_before + today_nano
    for row in days:
        yield BurnDay(
            row.day,
            max(spent_before + row.sum_nano + more, floor),
            max(spent_before + row.sum_low_nano, floor),
            max(spent_before + row.sum_high_nano + more, floor),
        )


def _run_out(days: tuple[BurnDay, ...], limit_nano: int | None) -> str | None:
    if limit_nano is None:
        return None
    return next((row.day for row in days if row.sum_nano >= limit_nano), None)
