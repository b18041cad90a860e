"""Tells when a budget is reached: once for each threshold and period, in the log, as an observation, and to
the URL of the setting `alert_webhook`, which is tried again at each tick until it has taken it.

What follows from it needs no sensor: work that does not fit is refused where it is reserved, and no run
is admitted below a budget that is used up or frozen. `maestro cost budget` shows them all.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from maestro_dagster.manifest.money import format_nano
from maestro_dagster.project.alert import send_alerts, take_alerts
from maestro_dagster.project.root import find_project
from maestro_dagster.translate.resource import LakeResource


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def budget_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> Iterator[dg.SkipReason]:
    tree = lake.open_runtime().engine.services.budgets
    project = find_project(Path(lake.project) if lake.project else None)
    alerts = take_alerts(project, tree, time.strftime("%Y-%m-%d", time.gmtime()))
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
    for problem in send_alerts(project):
        context.log.warning(problem)
    yield dg.SkipReason("; ".join(alert.to_text() for alert in alerts) or "no budget reached a threshold")
