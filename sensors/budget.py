"""Tells when a budget is reached: once for each threshold and period, in the log and as an observation.

What follows from it needs no sensor: work that does not fit is refused where it is reserved, and no run
is admitted below a budget that is used up or frozen. `maestro cost budget` shows them all.
"""

import time
from collections.abc import Iterator

import dagster as dg

from maestro_dagster.costs.budget_report import find_alerts
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def budget_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> Iterator[dg.SkipReason]:
    tree = lake.open_runtime().engine.services.budgets
    alerts = find_alerts(tree, time.strftime("%Y-%m-%d", time.gmtime()))
    for alert in alerts:
        context.log.warning(alert.to_text())
        hard = alert.account.hard_nano
        metadata = {
            "action": alert.action,
            "budget": alert.account.name,
            "spent_usd": format_nano(alert.spent_nano),
            "limit_usd": "" if hard is None else format_nano(hard),
            "renews": alert.account.renews,
        }
        context.instance.report_runless_asset_event(
            dg.AssetObservation(asset_key="budget", description=alert.to_text(), metadata=metadata)
        )
    yield dg.SkipReason("; ".join(alert.to_text() for alert in alerts) or "no budget reached a threshold")
