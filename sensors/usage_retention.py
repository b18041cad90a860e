"""Removes usage whose time is over, every day, after the day before was compacted."""

import dagster as dg

usage_retention_schedule = dg.ScheduleDefinition(
    name="usage_retention_schedule",
    target=dg.AssetSelection.assets("usage_retention"),
    cron_schedule="45 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
