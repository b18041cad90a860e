"""`maestro plan`: what a run would do and cost, and whether it is allowed. Nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.argument import flow_argument
from maestro_dagster.cli.output import emit, json_option, print_table

if TYPE_CHECKING:
    from maestro_dagster.engine.admission import Assessment


@click.command(
    epilog="""\b
Exit codes:
  0  allowed
  3  denied by policy or budget

\b
Example:
  maestro plan hello --budget 5usd
"""
)
@flow_argument("-m", "--manifest", "--template")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the flow.")
@click.option("--budget", metavar="USD", help="The most that the run may cost, such as 5usd.")
@click.option("--region", help="Where the request comes from, for the residency pack.")
@json_option
def command(flow: str, params: tuple[str, ...], budget: str | None, region: str | None, as_json: bool) -> int:
    """Say what a run of FLOW would do and cost, and what the policy packs say of it."""
    from maestro_dagster.cli.request import Typed, make_request
    from maestro_dagster.manifest.normal import flow_digest
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_engine

    project = find_project()
    request = make_request(project, Typed(flow, params, budget, region), run_id="plan")
    found = open_engine(project).plan(request)
    form = {"digest": flow_digest(request.flow), **_form(found)}
    if as_json:
        emit(form, as_json=True)
    else:
        _show(form)
    return 0 if found.decision.allow else 3


def _form(found: Assessment) -> dict[str, Any]:
    from maestro_dagster.manifest.money import format_nano

    def usd(nano: int | None) -> str | None:
        return None if nano is None else format_nano(nano)

    return {
        "allow": found.decision.allow,
        "verdicts": [verdict.to_json() for verdict in found.decision.verdicts],
        "estimated_cost_usd": usd(found.nano),
        "steps": [
            {
                "id": step.step,
                "uses": step.uses,
                "estimated_cost_usd": usd(step.nano),
                "egress": list(step.effects.egress),
                "secrets": list(step.effects.secrets),
                "paths": list(step.effects.paths),
                "runs_foreign_code": step.effects.runs_foreign_code,
            }
            for step in found.steps
        ],
    }


def _show(form: dict[str, Any]) -> None:
    rows = [
        [
            step["id"],
            step["uses"].removeprefix("pkg:"),
            step["estimated_cost_usd"] or "unknown",
            ", ".join(step["egress"]) or None,
            "yes" if step["runs_foreign_code"] else None,
        ]
        for step in form["steps"]
    ]
    print_table(["step", "kind", "at most USD", "network", "foreign code"], rows)
    click.echo(f"\ndigest: {form['digest']}")
    click.echo(f"estimated cost: {form['estimated_cost_usd'] or 'unknown'} USD")
    for verdict in form["verdicts"]:
        click.echo(f"{'allowed' if verdict['allow'] else 'DENIED'} by {verdict['pack']}")
        for violation in verdict["violations"]:
            place = f" ({violation['step']})" if violation["step"] else ""
            click.echo(
                f"  {violation['rule']}{place}: {violation['message']}\n    remedy: {violation['remedy']}"
            )
        for warning in verdict["warnings"]:
            click.echo(f"  warning: {warning}")
