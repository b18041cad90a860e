"""`maestro watch`: follow a run until it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import emit_line, json_option, on_terminal
from maestro_dagster.cli.run_view import (
    EXIT_CODES,
    follow_run,
    run_json,
    stalled_hint,
    status_text,
    step_json,
)

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import StepOutcome


@click.command(
    epilog="""\b
Ends with the exit code of the run (see `maestro run --help`). With --json each step is a line, and the
run itself the last one.

\b
Example:
  maestro watch RUN
"""
)
@run_argument("-e", "--execution")
@json_option
def command(run_id: str, as_json: bool) -> int:
    """Follow RUN, step by step, until it ends. Watching does not run anything."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    engine = open_engine(find_project())
    colour = on_terminal(sys.stdout)

    def tell(step: StepOutcome) -> None:
        if as_json:
            emit_line(step_json(step))
        else:
            click.echo(f"{step.step}: {status_text(step.status, colour=colour)}")

    hinted = False

    def hint() -> bool:
        nonlocal hinted
        if not hinted and run_id in engine.orphaned():
            hinted = True
            click.echo(stalled_hint(run_id), err=True)
        return False  # the loop may take it up again, so watching goes on

    view = follow_run(lambda: engine.view(run_id), tell, hint)
    if as_json:
        emit_line(run_json(view))
    else:
        click.echo(f"run {view.run_id}: {status_text(view.status, colour=colour)}\nevidence: {view.evidence}")
    return EXIT_CODES.get(view.status, 1)
