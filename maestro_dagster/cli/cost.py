"""`maestro cost`: what runs cost. Each verb is in a file of its own and imported when it is used."""

from __future__ import annotations

import click

from maestro_dagster.cli.lazy import LazyGroup, Row

_CLI = "maestro_dagster.cli"
TABLE = {
    "compact": Row(f"{_CLI}.cost_compact:command", "Publish the usage of days in the lake."),
    "report": Row(f"{_CLI}.cost_report:command", "Show what a run cost, or all runs."),
    "top": Row(f"{_CLI}.cost_top:command", "Show where the money goes, and what changed."),
    "explain": Row(f"{_CLI}.cost_explain:command", "Show what an artifact or a run was paid for."),
    "allocate": Row(f"{_CLI}.cost_allocate:command", "Divide the shared cost of a month."),
    "prices": Row(f"{_CLI}.cost_prices:command", "Show, check and refresh prices."),
    "forecast": Row(f"{_CLI}.cost_forecast:command", "Forecast costs to the end of the month."),
    "anomalies": Row(f"{_CLI}.cost_anomalies:command", "Find days that cost far more or less than expected."),
    "retain": Row(f"{_CLI}.cost_retain:command", "Remove usage that is older than its tier allows."),
    "forget": Row(f"{_CLI}.cost_forget:command", "Forget a person in the usage data."),
    "budget": Row(f"{_CLI}.cost_budget:command", "Show, freeze and thaw budgets."),
    "export": Row(f"{_CLI}.cost_export:command", "Write the usage of a period to a file."),
}


EPILOG = """\b
Example:
  maestro cost report --month --by model
  maestro cost top --days 30
  maestro cost export --format focus -o january.parquet --since 2026-01-01 --until 2026-01-31

Exit codes are those of `maestro --help`; 3 is also a day in quarantine.
"""


@click.group(cls=LazyGroup, table=TABLE, epilog=EPILOG)
def command() -> None:
    """Report, explain, export and forecast what runs cost."""
