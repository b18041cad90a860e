"""`maestro run`: run a flow here and wait for its evidence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.argument import flow_argument
from maestro_dagster.cli.output import (
    OutputFailedError,
    ReaderGoneError,
    emit,
    json_option,
    mute_stdout,
    on_terminal,
    print_error,
    print_table,
)
from maestro_dagster.cli.request import Typed, make_request, person_option
from maestro_dagster.cli.run_view import (
    EXIT_CODES,
    first_line,
    in_order,
    run_json,
    status_text,
    step_columns,
    step_row,
)

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView, StepOutcome


@click.command(
    epilog="""\b
Prints {"run_id","status","steps":[...],"evidence"} with --json. Ctrl-C cancels the run.

\b
Exit codes:
  0  succeeded
  1  failed
  3  denied by policy or budget
  4  cancelled

\b
Example:
  maestro run hello -p name=world --budget 5usd
  maestro run hello --as ada@example.org
"""
)
@flow_argument("-w", "--workflow", "--template")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the flow.")
@click.option("--budget", metavar="USD", help="The most that the run may cost, such as 5usd.")
@click.option("--region", help="Where the request comes from, for the residency pack.")
@person_option
@json_option
def command(
    flow: str,
    params: tuple[str, ...],
    budget: str | None,
    region: str | None,
    person: str | None,
    as_json: bool,
) -> int:
    """Run FLOW (a file, or a flow's name) and wait for its evidence."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.runtime import open_runtime

    project = find_project()
    request = make_request(project, Typed(flow, params, budget, region, person))
    runtime = open_runtime(project)
    return run_and_show(runtime, lambda: runtime.engine.request(request), request.run_id, as_json=as_json)


def run_and_show(runtime, begin, run_id: str, *, as_json: bool) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Executes a run in this process, with a line for each step on a terminal."""
    from maestro_dagster.database.survey import require_dagster
    from maestro_dagster.workers.foreground import execute_in_foreground

    runtime.engine.check_key()  # before the request: a run that cannot be signed would wait forever
    if runtime.database:
        require_dagster(runtime.database)  # the same holds of one that Dagster cannot record
    live = not as_json and on_terminal(sys.stderr)
    begin()
    view = execute_in_foreground(runtime, run_id, _tell if live else None)
    code = EXIT_CODES.get(view.status, 1)
    try:
        show_run(view, as_json=as_json)
    except ReaderGoneError:
        mute_stdout()  # the run has ended as it has, whether anybody reads of it or not
    except OutputFailedError as error:
        mute_stdout()
        return code or print_error(error, as_json=False)
    return code


def show_run(view: RunView, *, as_json: bool) -> None:
    """The run with its steps."""
    if as_json:
        emit(run_json(view), as_json=True)
        return
    colour = on_terminal(sys.stdout)
    print_table(step_columns(), [step_row(step) for step in in_order(view.steps)])
    click.echo(f"\nrun {view.run_id} of {view.flow}: {status_text(view.status, colour=colour)}")
    for violation in _violations(view):
        click.echo(f"  denied by {violation['pack']}: {violation['message']}")
        click.echo(f"    remedy: {violation['remedy']}")
    if view.error:
        click.echo(f"  {first_line(view.error.get('fact'), 200)}")
        if view.error.get("remedy"):
            click.echo(f"    remedy: {view.error['remedy']}")
    if view.evidence:
        click.echo(f"evidence: {view.evidence}")


def _violations(view: RunView) -> list[dict[str, str]]:
    verdicts = (view.decision or {}).get("verdicts", [])
    return [violation for verdict in verdicts for violation in verdict.get("violations", [])]


def _tell(step: StepOutcome) -> None:
    took = f" in {step.duration_ms / 1000:.2f} s" if step.started_at else ""
    click.echo(f"  {step.step}: {status_text(step.status, colour=True)}{took}", err=True)
