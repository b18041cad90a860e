"""`maestro cost`: what runs cost, as a report or as rows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageEvent
    from maestro_dagster.project.root import Project

_DAY = click.DateTime(["%Y-%m-%d"])
_BY = ("step", "model", "kind", "flow")


@click.group()
def command() -> None:
    """Report or export what runs cost."""


@command.command(
    epilog="""\b
Example:
  maestro cost report RUN
  maestro cost report --by flow --json
"""
)
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--by", type=click.Choice(_BY), default="step", show_default=True, help="What to group by.")
@click.option("--since", type=_DAY, help="First day, YYYY-MM-DD (UTC).")
@click.option("--until", type=_DAY, help="Last day, YYYY-MM-DD (UTC).")
@json_option
def report(run_id: str | None, by: str, since: Any, until: Any, as_json: bool) -> None:
    """Show what RUN cost, or all runs, exactly. What has no price is shown as unknown, never as 0."""
    from maestro_dagster.costs.report import cost_report

    events = _read(run_id, since, until)
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


@command.command(
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
@click.option("--since", type=_DAY, help="First day, YYYY-MM-DD (UTC).")
@click.option("--until", type=_DAY, help="Last day, YYYY-MM-DD (UTC).")
@json_option
def export(form: str, output: Path, since: Any, until: Any, as_json: bool) -> None:
    """Write every usage event of a period to a file, in the columns of the lake."""
    from maestro_dagster.costs.export import export_usage

    exported = export_usage(_read(None, since, until), output, form)
    emit(exported, as_json, lambda: f"{exported['rows']} rows, {exported['sum_usd']} USD, to {output}")


def _read(run_id: str | None, since: Any, until: Any) -> list[UsageEvent]:
    """Raises UsageError for a period that ends before it begins, JournalError (`run-unknown`)."""
    from maestro_dagster.costs.compact import read_usage
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.project.root import find_project

    if since and until and since > until:
        raise UsageError(
            f"--since {since:%Y-%m-%d} is after --until {until:%Y-%m-%d}", remedy="exchange the two days"
        )
    project: Project = find_project()
    read = functools.partial(read_usage, Spool(project.spool), open_lake(project.lake), run_id=run_id)
    found = read(since=since and f"{since:%Y-%m-%d}", until=until and f"{until:%Y-%m-%d}")
    # Usage may outlive the journal, so only a run that neither of them knows is unknown.
    if run_id is not None and not found and not read():
        from maestro_dagster.project.services import open_journal

        open_journal(project).run(run_id)
    return found


def _total_line(value: dict[str, Any]) -> str:
    line = f"total {value['known_usd']} USD"
    if value["unknown_events"]:
        line += f" and {value['unknown_events']} events whose price is unknown"
    if value["unsettled"]["events"]:
        line += f"; {value['unsettled']['events']} calls stand at their reserve"
    return line
