"""Compacts usage after midnight UTC: every day that the spool still has something of, late usage too."""

from collections.abc import Iterator

import dagster as dg

from maestro_dagster.translate.resource import LakeResource

FIRST_DAY = "2026-01-01"  # of the partitions of `usage_daily`


@dg.schedule(
    cron_schedule="15 0 * * *",
    target=dg.AssetSelection.assets("usage_daily"),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    execution_timezone="UTC",
)
def usage_daily_schedule(
    context: dg.ScheduleEvaluationContext, lake: LakeResource
) -> Iterator[dg.RunRequest]:
    tick = context.scheduled_execution_time.date().isoformat()
    for day in lake.waiting_days():
        if day >= FIRST_DAY:
            yield dg.RunRequest(run_key=f"{tick}/{day}", partition_key=day)
