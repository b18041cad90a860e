"""`maestro cost report`: what runs cost, to the nano-dollar."""

from __future__ import annotations

from typing import Any

import click

from maestro_dagster.cli.cost_period import ask_costs, check_days, day_option, read_run_usage
from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import UsageError

BY = ("step", "run", "flow", "model", "provider", "env", "tenant", "project", "kind", "day")
_MANY = 40  # rows that a person reads; --json has all of them


@click.command(
    epilog="""\b
Example:
  maestro cost report RUN
  maestro cost report --month --by model
  maestro cost report --by flow --since 2026-01-01 --json
"""
)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--by", type=click.Choice(BY), default="step", show_default=True, help="What to group by.")
@click.option("--month", is_flag=True, help="From the first of this month (UTC) until today.")
@day_option("--since", "First day")
@day_option("--until", "Last day")
@json_option
def command(
    run_id: str | None, by: str, month: bool, since: str | None, until: str | None, as_json: bool
) -> None:
    """Show what RUN cost, or all runs, exactly. What has no price is shown as unknown, never as 0."""
    from maestro_dagster.costs.report import report_period, report_run

    first, last = _days(month, since, until)
    if run_id is None:
        value = ask_costs(lambda costs: report_period(costs, by, since=first, until=last), first, last)
    else:
        value = report_run(read_run_usage(run_id, first, last), by)
    if as_json:
        emit(value, as_json=True)
    elif value["events"]:
        _print(value, by)
    else:
        click.echo("no usage was recorded")


def _days(month: bool, since: str | None, until: str | None) -> tuple[str | None, str | None]:
    if not month:
        check_days(since, until)
        return since, until
    if since or until:
        raise UsageError("--month and --since or --until exclude each other", remedy="leave one of them out")
    from datetime import UTC, datetime

    today = datetime.now(UTC).date()
    return today.replace(day=1).isoformat(), today.isoformat()


def _print(value: dict[str, Any], by: str) -> None:
    rows = value["rows"]
    if len(rows) > _MANY:
        rows = sorted(rows, key=lambda row: (-_nano(row), str(row)))[:_MANY]
    print_rows(rows)
    left = len(value["rows"]) - len(rows) + value.get("rows_left_out", 0)
    if left:
        click.echo(f"the {len(rows)} dearest; {left} more are not shown")
    elif by == "model" and not rows:
        click.echo("no model was called")
    click.echo(_total_line(value))
    for row in value["unknown"]:
        click.echo(f"no price: {row['kind']} {row['provider']} {row['model']} ({row['events']} events)")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows of a report: what they are named by comes first, and differs."""
    names = [name for name in (rows[0] if rows else ()) if name in _NAMES]
    print_table(
        [*(name.replace("_id", "") for name in names), "usd", "tokens in", "tokens out", "cpu ms", "events",
         "without price"],
        [
            (
                *(row[name] for name in names), row["known_usd"], row["tokens_in"], row["tokens_out"],
                row["cpu_ms"], row["events"], row["unknown_events"] or None,
            )
            for row in rows
        ],
    )  # fmt: skip


_NAMES = frozenset(("run_id", "flow", "step", "provider", "model", "env", "tenant", "project", "kind", "day"))


def _total_line(value: dict[str, Any]) -> str:
    line = f"total {value['known_usd']} USD"
    if value["unknown_events"]:
        line += f" and {value['unknown_events']} events whose price is unknown"
    if value["unsettled"]["events"]:
        line += f"; {value['unsettled']['events']} calls stand at their reserve"
    for name, what in (("failures", "failed work"), ("retries", "second and later attempts")):
        if name in value and value[name]["events"]:
            line += f"; {value[name]['known_usd']} USD of it for {what}"
    return line


def _nano(row: dict[str, Any]) -> int:
    from maestro_dagster.manifest.money import parse_usd

    return parse_usd(row["known_usd"])
