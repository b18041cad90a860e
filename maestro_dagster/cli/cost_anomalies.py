"""`maestro cost anomalies`: days that cost far more or less than expected, and why."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.cost_forecast import BY, read_amount, read_days, say_unknown
from maestro_dagster.cli.cost_period import day_option
from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import UsageError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.anomaly import Anomaly
    from maestro_dagster.costs.forecast_history import CostHistory

_SINCE_DAYS = 30
_TEACH_DAYS = 90  # before the first day that is judged
_FOUND = 1


@click.command(
    epilog="""\b
Example:
  maestro cost anomalies
  maestro cost anomalies --by model --since 2026-03-01 --json
  maestro cost anomalies --fail

Exit code 0, with anomalies too; with --fail 1 when there are any.
"""
)
@day_option("--since", "First day to judge (default: 30 days ago)")
@click.option("--by", type=click.Choice(BY), help="Judge each of these, not all costs together.")
@click.option("--least", default="0.01usd", show_default=True, help="Differences below this are left out.")
@click.option("--fail", is_flag=True, help="Exit with 1 when there are anomalies.")
@json_option
@click.pass_context
def command(
    context: click.Context, since: str | None, by: str | None, least: str, fail: bool, as_json: bool
) -> None:
    """Find days that cost far more or less than the days before them led to expect, and what changed.

    A day is judged from four weeks of history on, and only when it is over (UTC).
    """
    from maestro_dagster.costs.anomaly_report import anomaly_report, search_history

    today = datetime.now(UTC).date()
    first = date.fromisoformat(since) if since else today - timedelta(days=_SINCE_DAYS)
    if first >= today:
        raise UsageError(f"no day since {first} is over", remedy="give an earlier day")
    least_nano = read_amount(least, "--least")
    history = read_days(date.fromordinal(max(1, first.toordinal() - _TEACH_DAYS)), today)
    found = search_history(history, since=first.isoformat(), by=by, least_nano=least_nano)
    if as_json:
        emit(anomaly_report(history, found, since=first.isoformat(), by=by), as_json=True)
    else:
        _print_anomalies(history, found, by)
    if fail and found:
        context.exit(_FOUND)


def _print_anomalies(history: CostHistory, found: tuple[Anomaly, ...], by: str | None) -> None:
    from maestro_dagster.costs.anomaly_report import explain_anomaly

    if not found:
        click.echo("no anomalies" if history.total else "no usage was recorded")
    else:
        print_table(
            ["day (UTC)", by or "of", "usd", "expected", "more", "score"],
            [
                (
                    row.day, row.name, format_nano(row.nano), format_nano(row.expected_nano),
                    format_nano(row.more_nano), f"{row.score:.1f}",
                )
                for row in found
            ],
        )  # fmt: skip
    for row in found if by is None else ():
        print_table(
            ["by", "name", "usd", "expected", "more"],
            [
                (
                    cause.dimension, cause.name, format_nano(cause.nano), format_nano(cause.expected_nano),
                    format_nano(cause.more_nano),
                )
                for cause in explain_anomaly(history, row)
            ],
            title=f"\nwhat changed on {row.day}",
        )  # fmt: skip
    say_unknown(history.unknown)
