"""`maestro cancel`: stop a run."""

from __future__ import annotations

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import emit, json_option
from maestro_dagster.cli.run_view import CLOSED


@click.command(
    epilog="""\b
A run that nobody works on is closed at once.

\b
Example:
  maestro cancel RUN
"""
)
@run_argument("-e", "--execution")
@json_option
def command(run_id: str, as_json: bool) -> None:
    """Stop RUN. It still gets its receipt, which says what was cancelled."""
    from maestro_dagster.errors import JournalError
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.runtime import open_runtime

    runtime = open_runtime(find_project())
    ended = not runtime.engine.cancel(run_id)
    if runtime.engine.view(run_id).status not in CLOSED:
        from maestro_dagster.workers.execute import execute_run

        try:
            execute_run(runtime, run_id)
        except JournalError as error:
            if error.error_code != "run-busy":
                raise
    view = runtime.engine.view(run_id)
    if ended:
        said = f"had ended already ({view.status})"
    else:
        said = view.status if view.evidence else "asked to stop"
    form = {"run_id": run_id, "status": view.status, "ended_already": ended, "evidence": view.evidence}
    emit(form, as_json, f"run {run_id}: {said}")
