"""`maestro cost compact`: publishes usage by hand, as the asset `usage_daily` does every night."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.cost_period import DAY
from maestro_dagster.cli.output import emit, json_option, on_terminal, print_table
from maestro_dagster.errors import UsageError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.compact import CompactionReport

_QUARANTINED = 3  # as for everything that a check or a policy refuses


@click.command(
    epilog="""\b
Example:
  maestro cost compact --day 2026-01-31
  maestro cost compact --all --json
"""
)
@click.option("--day", "days", type=DAY, multiple=True, help="A day, YYYY-MM-DD (UTC); may be repeated.")
@click.option("--all", "every", is_flag=True, help="Every day that the spool has usage of.")
@json_option
@click.pass_context
def command(context: click.Context, days: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Publish the usage of days in the lake, each event once, and empty the spool of them.

    A day whose checks fail goes into quarantine: what was published of it stays, and the exit code is 3.
    Compacting a day again changes nothing, and nothing is published of a day without usage.
    """
    from maestro_dagster.project.compaction import compact_project_days, list_waiting_days
    from maestro_dagster.project.root import find_project

    if bool(days) == every:
        raise UsageError("say which days to compact", remedy="give --day YYYY-MM-DD or --all")
    _refuse_future(days)
    project = find_project()
    chosen = list_waiting_days(project) if every else tuple(dict.fromkeys(days))
    reports = []
    for number, report in enumerate(compact_project_days(project, chosen), start=1):
        reports.append(report)
        if on_terminal(sys.stderr):
            click.echo(f"{report.day}: {report.rows} rows, {number} of {len(chosen)} days", err=True)
    quarantined = sum(report.quarantined for report in reports)
    if as_json:
        emit({"days": [_value(report) for report in reports], "quarantined": quarantined}, as_json=True)
    else:
        _show(reports)
    if quarantined:
        context.exit(_QUARANTINED)


def _refuse_future(days: tuple[str, ...]) -> None:
    """Tomorrow is allowed: a clock may be ahead of ours."""
    last = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    for day in days:
        if day > last:
            raise UsageError(
                f"{day} is yet to come", place="--day", remedy="give a day up to today (UTC), or --all"
            )


def _value(report: CompactionReport) -> dict[str, Any]:
    return {
        "day": report.day,
        "rows": report.rows,
        "rows_added": report.added,
        "sum_usd": format_nano(report.sum_nano),
        "events_without_price": report.unknown,
        "open_calls_left": report.waiting,
        "spool_files_removed": len(report.removed),
        "balanced": report.balanced,
        "quarantined": report.quarantined,
        "published": report.published,
        "checks": [outcome.to_json() for outcome in report.outcomes],
        "digest": f"sha256:{report.sha256}" if report.sha256 else None,
    }


def _status(report: CompactionReport) -> str:
    if report.quarantined:
        return "quarantined"
    return "published" if report.published else "no usage"


def _show(reports: list[CompactionReport]) -> None:
    if not reports:
        click.echo("no usage waits to be compacted")
        return
    print_table(
        ["day", "rows", "added", "usd", "without price", "open calls", "status"],
        [
            (
                report.day, report.rows, report.added, format_nano(report.sum_nano), report.unknown or None,
                report.waiting or None, _status(report),
            )
            for report in reports
        ],
    )  # fmt: skip
    for report in reports:
        for outcome in report.outcomes:
            if outcome.blocks:
                click.echo(f"{report.day}: {outcome.name}: {outcome.message}")
