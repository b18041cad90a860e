"""What is to be expected of the costs of a project: each series' forecast and where its month will end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.burn import BurnDown, burn_down, month_of, past_days
from maestro_dagster.costs.forecast import forecast_many
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.account import Account
    from maestro_dagster.costs.forecast import Backtest, Forecast
    from maestro_dagster.costs.forecast_history import CostHistory

SCHEMA = "maestro.cost-forecast/v1"


@dataclass(frozen=True, slots=True)
class Outlook:
    """`days` of the forecast were asked for; it may go on to the end of the month, which is `month`."""

    name: str
    forecast: Forecast
    month: BurnDown
    days: int

    def to_json(self) -> dict[str, Any]:
        """Money as decimal strings of USD, None where nothing can be said; shares as numbers (0.05: 5 %)."""
        made, month, end = self.forecast, self.month, self.month.end
        return {
            "name": self.name,
            "method": made.method or None,
            "reason": made.reason,
            "history_days": len(made.history),
            "days": [
                {
                    "day": row.day,
                    "usd": format_nano(row.nano),
                    "low_usd": format_nano(row.low_nano),
                    "high_usd": format_nano(row.high_nano),
                }
                for row in made.days[: self.days]
            ],
            "month": {
                "first": month.first,
                "last": month.last,
                "spent_usd": format_nano(month.spent_nano),
                "end_usd": _usd(end.sum_nano if end else None),
                "end_low_usd": _usd(end.low_nano if end else None),
                "end_high_usd": _usd(end.high_nano if end else None),
                "limit_usd": _usd(month.limit_nano),
                "left_usd": _usd(month.left_nano),
                "runs_out": month.runs_out,
            },
            "backtest": _test(made.backtest),
            "naive": _test(made.naive),
        }


def foresee(
    history: CostHistory,
    *,
    by: str | None = None,
    days: int | None = None,
    method: str | None = None,
    limit_nano: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Outlook, ...]:
    """The outlook of each name of `by`, the dearest month first; of all costs without `by`.

    Args:
        history: its last day is today, which is not over.
        by: `tenant`, `model` or `flow`.
        days: to forecast from today; None: to the end of the month.
        method: as `forecast_costs` takes it.
        limit_nano: a budget of the month.
        progress: is told how many names are forecast so far.

    Raises:
        CostError: as `forecast_costs` does.

    """
    first, last = month_of(history.last)
    left = (date.fromisoformat(last) - date.fromisoformat(history.last)).days + 1
    wanted = days if days is not None else left
    names = history.names(by)
    past = [past_days(sums, history.last) for sums in names.values()]
    forecasts = forecast_many(past, max(wanted, left), method=method, progress=progress)
    found = []
    for (name, sums), made in zip(names.items(), forecasts, strict=True):
        month = burn_down(sums, limit_nano, first=first, last=last, today=history.last, forecast=made)
        found.append(Outlook(name, made, month, wanted))
    return tuple(sorted(found, key=lambda row: (-_dearness(row.month), row.name)))


def foresee_budget(history: CostHistory, account: Account) -> BurnDown:
    """The month of a tenant against its account: the hard limit, the soft one where there is no other.

    The history's last day is today. Usage counts as the lake and the spool have it, so what is only
    reserved does not.
    """
    limit = account.soft_nano if account.hard_nano is None else account.hard_nano
    first, last = month_of(history.last)
    sums = history.parts["tenant"].get(account.path, {})
    return burn_down(sums, limit, first=first, last=last, today=history.last)


def outlook_report(history: CostHistory, outlooks: tuple[Outlook, ...], by: str | None) -> dict[str, Any]:
    """The JSON of `maestro cost forecast`."""
    return {
        "schema": SCHEMA,
        "currency": "USD",
        "as_of": history.last,
        "by": by,
        "level": outlooks[0].forecast.level if outlooks else None,
        "unknown_events": history.unknown,
        "forecasts": [row.to_json() for row in outlooks],
    }


def draw_outlook(outlook: Outlook, *, unknown: int = 0) -> str:
    """One picture: the days of the past, what was expected of them, and the days to come with their band."""
    from maestro_dagster.costs.plot import draw_daily

    made = outlook.forecast
    title = f"Cost a day, forecast by {made.method}" if made.method else f"Cost a day. {made.reason}"
    return draw_daily(
        made.history, title=title, trend=made.fitted, forecast=made.days[: outlook.days], unknown=unknown
    )


def _dearness(month: BurnDown) -> int:
    return month.end.sum_nano if month.end is not None else month.spent_nano


def _usd(nano: int | None) -> str | None:
    return None if nano is None else format_nano(nano)


def _test(test: Backtest | None) -> dict[str, Any] | None:
    if test is None:
        return None
    mape, mase = (None if value is None else round(value, 4) for value in (test.mape, test.mase))
    return {"method": test.method, "days": test.days, "mape": mape, "mase": mase}
