"""`maestro cost top`: where the money goes, and what has changed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import click

from maestro_dagster.cli.cost_period import ask_costs, check_days, day_option
from maestro_dagster.cli.cost_report import BY, print_rows
from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import UsageError

_DAYS = 7


@click.command(
    epilog="""\b
Example:
  maestro cost top
  maestro cost top --by model --days 30 --json
"""
)
@click.option("--by", type=click.Choice(BY), default="step", show_default=True, help="What to group by.")
@click.option("--days", type=click.IntRange(1, 3660), help="Length of the period.  [default: 7]")
@day_option("--since", "First day, instead of --days")
@day_option("--until", "Last day; today if none is given")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rows of each list."
)
@json_option
def command(
    by: str, days: int | None, since: str | None, until: str | None, limit: int, as_json: bool
) -> None:
    """Show the dearest of a period, and what changed most against the days before it."""
    from maestro_dagster.costs.question import period_before
    from maestro_dagster.costs.report import report_top

    first, last = _period(days, since, until)
    earliest, latest = period_before(first, last)
    value = ask_costs(
        lambda costs: report_top(costs, by, since=first, until=last, limit=limit), earliest, last
    )
    if as_json:
        emit(value, as_json=True)
        return
    if not value["events"] and not value["before"]["events"]:
        click.echo(f"no usage was recorded from {first} to {last}, nor before, from {earliest} to {latest}")
        return
    click.echo(f"dearest from {first} to {last}")
    print_rows(value["dearest"])
    if by == "model" and not value["dearest"]:
        click.echo("no model was called; --by step shows all usage")
    _print_changes(value)


def _period(days: int | None, since: str | None, until: str | None) -> tuple[str, str]:
    if days is not None and since:
        raise UsageError("--days and --since exclude each other", remedy="leave one of them out")
    last = until or datetime.now(UTC).date().isoformat()
    check_days(since, last)
    end = date.fromisoformat(last).toordinal()
    first = date.fromisoformat(since).toordinal() if since else end - (days or _DAYS) + 1
    if first - (end - first) - 1 < 1:
        raise UsageError("there are not as many days before the period", remedy="give a later --since")
    return date.fromordinal(first).isoformat(), last


def _print_changes(value: dict[str, Any]) -> None:
    before = value["before"]
    if value["changed"]:
        names = [name for name in value["changed"][0] if not name.endswith(("_usd", "_events"))]
        click.echo(f"\nmost changed since {before['since']} to {before['until']}")
        print_table(
            [*(name.replace("_id", "") for name in names), "more usd", "before", "now"],
            [
                (*(row[name] for name in names), row["more_usd"], row["before_usd"], row["known_usd"])
                for row in value["changed"]
            ],
        )
    sign = "" if value["more_usd"].startswith("-") else "+"
    line = (
        f"total {value['known_usd']} USD, {sign}{value['more_usd']} against the {before['known_usd']} before"
    )
    if unknown := value["unknown_events"]:
        line += f"; {unknown} events have no price"
    click.echo(f"\n{line}")
    click.echo(
        f"failed work cost {value['failures']['known_usd']} USD, "
        f"second and later attempts {value['retries']['known_usd']} USD"
    )
