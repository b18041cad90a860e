"""`maestro status`: a run, or the newest runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.cli.run_view import STATUSES, run_columns, run_json, run_row, stalled_hint
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.engine.engine import Engine


@click.command(
    epilog="""\b
Example:
  maestro status
  maestro status RUN --json
"""
)
@run_argument("-e", "--execution", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many runs.")
@click.option("--flow", help="Only runs of this flow.")
@click.option("--status", "wanted", type=click.Choice(STATUSES), help="Only runs that stand so.")
@json_option
def command(run_id: str | None, limit: int, flow: str | None, wanted: str | None, as_json: bool) -> None:
    """Show RUN with its steps, or the newest runs."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    if run_id is not None and (flow or wanted):
        raise UsageError("RUN is one run, there is nothing to choose", remedy="leave out --flow and --status")
    engine = open_engine(find_project())
    if run_id is not None:
        _show_one(engine, run_id, as_json=as_json)
        return
    rows = engine.services.journal.runs(limit, wanted, flow)
    found = [engine.view(row.run_id) for row in rows]
    lost = set(engine.orphaned())
    if as_json:
        runs = [run_json(view, steps=False, orphaned=view.run_id in lost) for view in found]
        emit({"runs": runs}, as_json=True)
    elif found:
        print_table(run_columns(), [run_row(view, orphaned=view.run_id in lost) for view in found])
        for view in found:
            if view.run_id in lost:
                click.echo(stalled_hint(view.run_id))
    elif flow or wanted:
        click.echo("no such runs; `maestro status` lists all")
    else:
        click.echo("no runs yet; start one with `maestro run FLOW`")


def _show_one(engine: Engine, run_id: str, *, as_json: bool) -> None:
    """A run that stands still says what stopped it, which the journal does not know."""
    from maestro_dagster.cli.run import show_run
    from maestro_dagster.engine.stop import find_stop

    view = engine.view(run_id)
    orphaned = run_id in engine.orphaned()
    if view.error is None and (orphaned or view.status == "requested"):
        view = replace(view, error=find_stop(engine.services.log_folder, run_id))
    if as_json:
        emit(run_json(view, orphaned=orphaned), as_json=True)
        return
    show_run(view, as_json=False)
    if orphaned:
        click.echo(stalled_hint(run_id))
