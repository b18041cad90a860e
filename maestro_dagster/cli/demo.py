"""`maestro demo`: a push becomes a verified bundle, from end to end, in a new project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table

EXAMPLE = """\b
Example:
  maestro demo --dir try-maestro
"""


@click.command(name="demo", epilog=EXAMPLE)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("maestro-demo"),
    show_default=True,
    help="Where to make the project and the repository.",
)
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Push a commit, release it, verify the evidence; then see two bad attempts refused."""
    from maestro_dagster.project.demo import run_demo

    report = run_demo(folder, lambda line: click.echo(line, err=True))
    if as_json:
        shown = [
            {key: run[key] for key in ("run_id", "flow", "status", "evidence")} for run in report["runs"]
        ]
        emit({**report, "runs": shown}, as_json=True)
        return
    _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    for run in report["runs"]:
        rows = [
            (step["id"], step["status"], f"{step['duration_ms']} ms", f"{step['cost_usd'] or 'unknown'} USD")
            for step in run["steps"]
        ]
        click.echo()
        print_table(
            ("step", "status", "time", "cost"), rows, title=f"{run['flow']}  {run['run_id']}  {run['status']}"
        )
        click.echo(f"evidence: {run['evidence']}")
    click.echo(f"\nfrom push to first step: {report['push_to_first_step_ms']} ms")
    click.echo(f"not published, as it should be: run {report['not_published']['run_id']}")
    click.echo(f"refused, as it should be: {report['refused']['bundle']} ({_first_problem(report)})")
    click.echo("\nthe public key that verifies the bundles:")
    click.echo(report["public_key"].strip())
    click.echo(f"\nto see it in the Dagster UI:  cd {report['project']} && maestro dev")


def _first_problem(report: dict[str, Any]) -> str:
    problem = report["refused"]["problems"][0]
    return str(problem.get("fact", problem)) if isinstance(problem, dict) else str(problem)
