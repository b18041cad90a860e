"""Anomalous days of a project's costs with what made them so: what the command and the asset show."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.anomaly import LEAST_NANO, Anomaly, Cause, explain_day, find_anomalies
from maestro_dagster.costs.anomaly_score import THRESHOLD
from maestro_dagster.costs.forecast import fill_days

if TYPE_CHECKING:
    from maestro_dagster.costs.forecast_history import CostHistory

SCHEMA = "maestro.cost-anomalies/v1"


def search_history(
    history: CostHistory, *, since: str, by: str | None = None, least_nano: int = LEAST_NANO
) -> tuple[Anomaly, ...]:
    """Anomalies of all costs (`by` None) or of each name. The last day of `history` is today: not judged."""
    last = (date.fromisoformat(history.last) - timedelta(days=1)).isoformat()
    series = {name: fill_days(sums, history.first, last) for name, sums in history.names(by).items()}
    return find_anomalies(series, since=since, least_nano=least_nano)


def explain_anomaly(history: CostHistory, anomaly: Anomaly, by: str | None = None) -> tuple[Cause, ...]:
    """What changed most that day in each dimension; `by` is the one that the anomaly is of."""
    parts = {dimension: names for dimension, names in history.parts.items() if dimension != by}
    return explain_day(anomaly.day, parts)


def anomaly_report(
    history: CostHistory, anomalies: tuple[Anomaly, ...], *, since: str, by: str | None
) -> dict[str, Any]:
    """The JSON of `maestro cost anomalies`; causes stand with anomalies of all costs only."""
    return {
        "schema": SCHEMA,
        "currency": "USD",
        "since": since,
        "as_of": history.last,
        "by": by,
        "threshold": THRESHOLD,
        "unknown_events": history.unknown,
        "anomalies": [
            anomaly.to_json()
            | (
                {"causes": [cause.to_json() for cause in explain_anomaly(history, anomaly)]}
                if by is None
                else {}
            )
            for anomaly in anomalies
        ],
    }


def draw_anomalies(history: CostHistory, anomalies: tuple[Anomaly, ...]) -> str:
    """The daily costs of all with a ring around each anomalous day."""
    from maestro_dagster.costs.plot import draw_daily

    sums = history.total
    first = max(min(sums, default=history.last), history.first)
    return draw_daily(
        fill_days(sums, first, history.last),
        title=f"Cost a day, anomalies: {len(anomalies)}",
        anomalies=[anomaly.day for anomaly in anomalies],
        unknown=history.unknown,
    )
