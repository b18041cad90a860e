"""`maestro trace`: what a run spent its time on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import emit, json_option
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.telemetry.trace import TraceSpan


@click.command(
    epilog="""\b
Each line is one span: the push, the run, its admission, its segments, every attempt of a step, every
call to the outside. `x` marks what failed, `.` what still goes on.

\b
Example:
  maestro trace RUN
  maestro trace RUN --svg trace.svg
"""
)
@run_argument("-e", "--execution")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture there.")
@json_option
def command(run_id: str, svg: Path | None, as_json: bool) -> None:
    """Draw the trace of RUN as a waterfall."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine
    from maestro_dagster.project.trace import read_run_trace
    from maestro_dagster.telemetry.waterfall import draw_lines, draw_picture, lay_out

    project = find_project()
    view = open_engine(project).view(run_id)  # raises for an unknown run
    spans = read_run_trace(project, run_id)
    if not spans:
        raise UsageError(
            "there is no trace of the run",
            place=f"run {run_id}",
            remedy="runs of earlier releases have none; a run that waits has none yet",
            code="trace-missing",
        )
    rows = lay_out(spans)
    if svg is not None:
        heading = f"{view.flow} {view.flow_version}: {view.status}, trace {spans[0].trace_id}"
        _write(svg, draw_picture(rows, heading))
    if as_json:
        emit(_to_json(run_id, spans), as_json=True)
        return
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(f"trace {spans[0].trace_id}, {len(spans)} spans")
    for line in draw_lines(rows, width):
        click.echo(line)


def _to_json(run_id: str, spans: list[TraceSpan]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "trace_id": spans[0].trace_id,
        "spans": [span.to_json() for span in spans],
    }


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the picture cannot be written: {error.strerror}",
            place=str(path),
            remedy="name a file in a folder that you may write to",
            code="output-unwritable",
        ) from error
