"""`maestro retry`: go on with a run that died, or run a failed one again."""

from __future__ import annotations

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import json_option
from maestro_dagster.cli.request import actor_name, new_run_id, person_option


@click.command(
    epilog="""\b
A run whose process died goes on under its own id; no step that was acknowledged runs again. A run that
has ended is run again under a new id, and takes over what the old one finished.

\b
Example:
  maestro retry RUN
"""
)
@run_argument("-e", "--execution")
@person_option
@json_option
def command(run_id: str, person: str | None, as_json: bool) -> int:
    """Resume RUN, or run it again keeping what is done. Waits, like `maestro run`."""
    from maestro_dagster.cli.run import run_and_show
    from maestro_dagster.cli.run_view import CLOSED
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.errors import UsageError
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.runtime import open_runtime

    runtime = open_runtime(find_project())
    engine = runtime.engine
    view = engine.view(run_id)
    if view.status not in CLOSED:
        return run_and_show(runtime, lambda: None, run_id, as_json=as_json)
    if view.status == "succeeded":
        raise UsageError(
            f"the run {run_id} has succeeded", remedy=f"run the flow again with `maestro run {view.flow}`"
        )
    old = engine.services.journal.run(run_id)
    again = RunRequest(
        run_id=new_run_id(),
        flow=engine.flow(run_id),
        params=old.params,
        git=old.git,
        partition=old.partition,
        cause="retry",
        actor=actor_name(person),
        budget_nano=old.budget_nano,
        region=old.region,
        reuse_from=run_id,
        selection=old.selection,
    )
    return run_and_show(runtime, lambda: engine.request(again), again.run_id, as_json=as_json)
