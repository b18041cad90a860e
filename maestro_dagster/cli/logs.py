"""`maestro logs`: the log lines of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.argument import run_argument
from maestro_dagster.cli.output import emit_line, json_option
from maestro_dagster.cli.run_view import CLOSED
from maestro_dagster.errors import UsageError
from maestro_dagster.manifest.suggest import did_you_mean

if TYPE_CHECKING:
    from maestro_dagster.engine.engine import Engine


@click.command(
    epilog="""\b
With --json each line is one JSON document.

\b
Example:
  maestro logs RUN --step build -f
"""
)
@run_argument("-e", "--execution")
@click.option("--step", help="Only the lines of this step.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the run has ended.")
@json_option
def command(run_id: str, step: str | None, follow: bool, as_json: bool) -> None:
    """Print the log lines of RUN."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    engine = open_engine(find_project())
    steps = [each.step for each in engine.view(run_id).steps]  # raises for an unknown run
    if step is not None and step not in steps:
        raise UsageError(
            f"the run has no step {step}",
            place=f"run {run_id}",
            remedy=did_you_mean(step, steps, otherwise=f"its steps: {', '.join(steps)}"),
            code="step-unknown",
        )
    printer = _Printer()
    for line in _lines(engine, run_id, step, follow=follow):
        if as_json:
            emit_line(line)
        else:
            printer.show(line)


def _lines(engine: Engine, run_id: str, step: str | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        ended = not follow or engine.view(run_id).status in CLOSED  # asked before reading: no line is missed
        for line in engine.logs(run_id, step, offset=offset):
            offset = line["offset"]
            yield line
        if ended:
            return
        time.sleep(0.5)


def _clock(line: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(line["ts"]))


class _Printer:
    """Every line with its time and step. A failure that repeats what the step just said refers to it."""

    def __init__(self) -> None:
        self._said: dict[tuple[Any, ...], set[str]] = {}

    def show(self, entry: dict[str, Any]) -> None:
        attempt = (entry["step"], entry["iteration"], entry["attempt"])
        said = self._said.setdefault(attempt, set())
        lines = str(entry["line"]).splitlines() or [""]
        for line in _refer(lines, said) or lines:
            click.echo(f"{_clock(entry)} {entry['step'] or 'run'}: {line}")
        said.update(line.strip() for line in lines if line.strip())


def _refer(lines: list[str], said: set[str]) -> list[str] | None:
    """One line instead of several that stand above already, None when they do not.

    A failure reads `<what>: <first line said>`, more of what was said, `<last line said>; <place, remedy>`.
    """
    if len(lines) == 1 or any(line.strip() and line.strip() not in said for line in lines[1:-1]):
        return None
    last = max((each for each in said if lines[-1].strip().startswith(each)), key=len, default=None)
    if last is None:
        return None
    what, _, first = lines[0].partition(": ")
    head = what if first.strip() in said else lines[0]
    return [f"{head}: see above{lines[-1].strip().removeprefix(last)}"]
