"""Brings the month's cost report up to date every hour."""

import dagster as dg

cost_report_schedule = dg.ScheduleDefinition(
    name="cost_report_schedule",
    target=dg.AssetSelection.assets("cost_report"),
    cron_schedule="50 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
