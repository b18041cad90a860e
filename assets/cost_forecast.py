"""What costs will be by the end of the month, and days that cost far more or less than expected.

Materialise both after a day was compacted; they read daily sums, those of usage only in the spool too.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from maestro_dagster.costs.anomaly_report import anomaly_report, draw_anomalies, search_history
from maestro_dagster.costs.burn import BurnDown
from maestro_dagster.costs.forecast_history import CostHistory, read_history
from maestro_dagster.costs.forecast_outlook import draw_outlook, foresee, foresee_budget, outlook_report
from maestro_dagster.costs.plot import draw_burn_down, embed_svg
from maestro_dagster.costs.plot_spark import embed_burn, embed_spark
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource

HISTORY_DAYS = 120
JUDGED_DAYS = 30
SPARK_DAYS = 40


@dg.asset(
    deps=["usage_cubes"],
    group_name="costs",
    kinds={"numpy"},
    description="Where this month's costs will end, with a 90 % interval, against the budget of the tenant.",
)
def cost_forecast(lake: LakeResource) -> dg.MaterializeResult:
    history = _read(lake)
    (outlook,) = foresee(history)
    unknown = history.unknown
    report = outlook_report(history, (outlook,), None)["forecasts"][0]
    month, end = report["month"], outlook.month.end
    numbers = {  # doubles, for Dagster's plots; the exact amounts stand beside them
        "month_to_date_usd": outlook.month.spent_nano / 1e9,
        "month_end_usd": end.sum_nano / 1e9 if end else None,
        "month_end_low_usd": end.low_nano / 1e9 if end else None,
        "month_end_high_usd": end.high_nano / 1e9 if end else None,
        "backtest_mape": (report["backtest"] or {}).get("mape"),
        "naive_mape": (report["naive"] or {}).get("mape"),
    }
    return dg.MaterializeResult(
        metadata={
            "as_of": history.last,
            "month_to_date": f"{month['spent_usd']} USD",
            "month_end": f"{month['end_usd']} USD" if end else "cannot be said",
            "month_end_90_percent": f"{month['end_low_usd']} to {month['end_high_usd']} USD" if end else "",
            "days": dg.MetadataValue.md(
                embed_spark(
                    outlook.forecast.history[-SPARK_DAYS:],
                    to_come=[(row.day, row.nano) for row in outlook.forecast.days[: outlook.days]],
                )
            ),
            **_against_budget(lake, history),
            "method": report["method"] or "none",
            "reason": report["reason"],
            "events_without_price": unknown,
            "days_with_interval": dg.MetadataValue.md(
                embed_svg("daily costs", draw_outlook(outlook, unknown=unknown))
            ),
            **{name: dg.MetadataValue.float(value) for name, value in numbers.items() if value is not None},
        }
    )


def _against_budget(lake: LakeResource, history: CostHistory) -> dict[str, Any]:
    """The tenant's month against the limit that `resources/budgets.yaml` gives it, if any."""
    account = lake.open_runtime().engine.services.budgets.month_account(history.last)
    month = foresee_budget(history, account)
    limit, end = month.limit_nano, month.end
    picture = draw_burn_down(month, title=f"The month of tenant {account.path}", unknown=history.unknown)
    shown = {
        "month": dg.MetadataValue.md(embed_burn(month)),
        "month_with_interval": dg.MetadataValue.md(embed_svg("month to date", picture)),
    }
    if limit is None:
        none = f"none: resources/budgets.yaml limits no month of tenant {account.path} in USD"
        return {"budget": none, **shown}
    which = "soft" if account.hard_nano is None else "hard"
    numbers = {"budget_usd": limit / 1e9}
    if limit:
        numbers["budget_used_percent"] = month.spent_nano / limit * 100
    if limit and end is not None:
        numbers["budget_end_percent"] = end.sum_nano / limit * 100
    return {
        "budget": f"{format_nano(limit)} USD a month, the {which} limit of tenant {account.path}",
        "runs_out_on": _say_end(month),
        **shown,
        **{name: dg.MetadataValue.float(round(value, 6)) for name, value in numbers.items()},
    }


def _say_end(month: BurnDown) -> str:
    if month.runs_out is not None:
        return month.runs_out
    return "not this month" if month.end is not None else f"cannot be said: {month.reason}"


@dg.asset(
    deps=["usage_cubes"],
    group_name="costs",
    kinds={"numpy"},
    description="Days of the last 30 that cost far more or less than the days before them led to expect.",
)
def cost_anomalies(lake: LakeResource) -> dg.MaterializeResult:
    history = _read(lake)
    since = (datetime.now(UTC).date() - timedelta(days=JUDGED_DAYS)).isoformat()
    found = search_history(history, since=since)
    report = anomaly_report(history, found, since=since, by=None)
    return dg.MaterializeResult(
        metadata={
            "anomalies": len(found),
            "judged_since": since,
            "events_without_price": report["unknown_events"],
            "table": dg.MetadataValue.table([_row(anomaly) for anomaly in report["anomalies"]], _COLUMNS),
            "days": dg.MetadataValue.md(
                embed_spark(sorted(history.total.items()), anomalies={one.day for one in found})
            ),
            "days_with_amounts": dg.MetadataValue.md(
                embed_svg("daily costs", draw_anomalies(history, found))
            ),
        }
    )


_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn(name, "string")
        for name in ("day", "usd", "score", "changed most")  # Dagster's page has room for no more
    ]
)


def _row(anomaly: dict[str, Any]) -> dg.TableRecord:
    most: dict[str, str] = {}  # of each dimension: causes stand with the largest first
    for cause in anomaly["causes"]:
        most.setdefault(cause["dimension"], f"{cause['dimension']} {cause['name']} {cause['more_usd']}")
    return dg.TableRecord(
        {
            "day": anomaly["day"],
            "usd": f"{anomaly['usd']}, not {anomaly['expected_usd']}",
            "score": str(anomaly["score"]),
            "changed most": "; ".join(most.values()),
        }
    )


def _read(lake: LakeResource) -> CostHistory:
    today = datetime.now(UTC).date()
    first = (today - timedelta(days=HISTORY_DAYS)).isoformat()
    return read_history(lake.open(), lake.spool(), first=first, last=today.isoformat())
