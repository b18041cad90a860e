"""`maestro cost export`: usage as a file for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maestro_dagster.cli.cost_period import day_option, read_period
from maestro_dagster.cli.output import emit, json_option


@click.command(
    epilog="""\b
Example:
  maestro cost export --format parquet -o usage.parquet --since 2026-01-01
"""
)
@click.option(
    "--format", "form", type=click.Choice(("csv", "parquet")), required=True, help="Form of the file."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file."
)
@day_option("--since", "First day")
@day_option("--until", "Last day")
@json_option
def command(form: str, output: Path, since: Any, until: Any, as_json: bool) -> None:
    """Write every usage event of a period to a file, in the columns of the lake."""
    from maestro_dagster.costs.export import export_usage

    exported = export_usage(read_period(None, since, until), output, form)
    emit(exported, as_json, lambda: f"{exported['rows']} rows, {exported['sum_usd']} USD, to {output}")
