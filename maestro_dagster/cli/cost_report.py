"""`maestro cost report`: what runs cost, to the nano-dollar."""

from __future__ import annotations

from typing import Any

import click

from maestro_dagster.cli.cost_period import day_option, read_period
from maestro_dagster.cli.output import emit, json_option, print_table

_BY = ("step", "model", "kind", "flow")


@click.command(
    epilog="""\b
Example:
  maestro cost report RUN
  maestro cost report --by flow --json
"""
)
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--by", type=click.Choice(_BY), default="step", show_default=True, help="What to group by.")
@day_option("--since", "First day")
@day_option("--until", "Last day")
@json_option
def command(run_id: str | None, by: str, since: Any, until: Any, as_json: bool) -> None:
    """Show what RUN cost, or all runs, exactly. What has no price is shown as unknown, never as 0."""
    from maestro_dagster.costs.report import cost_report

    events = read_period(run_id, since, until)
    value = cost_report(events)
    if as_json:
        emit(value, as_json=True)
        return
    if not events:
        click.echo("no usage was recorded")
        return
    rows = value[f"by_{by}"]
    names = ("provider", "model") if by == "model" else (by,)
    print_table(
        [*names, "usd", "tokens in", "tokens out", "cpu ms", "events", "without price"],
        [
            (
                *(row[name] for name in names), row["known_usd"], row["tokens_in"], row["tokens_out"],
                row["cpu_ms"], row["events"], row["unknown_events"] or None,
            )
            for row in rows
        ],
    )  # fmt: skip
    click.echo(_total_line(value))
    for row in value["unknown"]:
        click.echo(f"no price: {row['kind']} {row['provider']} {row['model']} ({row['events']} events)")


def _total_line(value: dict[str, Any]) -> str:
    line = f"total {value['known_usd']} USD"
    if value["unknown_events"]:
        line += f" and {value['unknown_events']} events whose price is unknown"
    if value["unsettled"]["events"]:
        line += f"; {value['unsettled']['events']} calls stand at their reserve"
    return line
