"""`maestro cost budget`: what may still be spent, by whom, and until when."""

from __future__ import annotations

import getpass
from typing import Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import UsageError

EPILOG = """\b
Example:
  maestro cost budget
  maestro cost budget freeze default/default/hello --reason "runs away"
"""


@click.group(invoke_without_command=True, epilog=EPILOG)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show every budget: its limits, what is spent and reserved, what is left, when it renews."""
    if context.invoked_subcommand is not None:
        return
    from maestro_dagster.project.budget import show_budgets
    from maestro_dagster.project.root import find_project

    value = show_budgets(find_project())
    if as_json:
        emit(value, as_json=True)
        return
    if not value["budgets"]:
        click.echo("no budget is set: resources/budgets.yaml and `budget:` of flows set them")
    else:
        print_table(
            ("budget", "spent usd", "reserved", "soft", "hard", "left", "%", "renews", "state"),
            [_row(row) for row in value["budgets"]],
        )
    for row in value["budgets"]:
        if row["events_without_price"]:
            click.echo(f"{row['name']}: {row['events_without_price']} events without a price are in no sum")
    for freeze in value["frozen"]:
        click.echo(f"{freeze['path']} is frozen since {freeze['at']} by {freeze['by']}: {freeze['reason']}")


@command.command(
    epilog="""\b
Example:
  maestro cost budget freeze default --reason "wait for the new quarter"
"""
)
@click.argument("node")
@click.option("--reason", required=True, help="Why; whoever is refused reads it.")
@json_option
def freeze(node: str, reason: str, as_json: bool) -> None:
    """Stop NODE (tenant, tenant/project or tenant/project/flow): nothing more is spent below it."""
    from maestro_dagster.project.budget import freeze_node
    from maestro_dagster.project.root import find_project

    if not reason.strip():
        raise UsageError(
            "the reason is empty", place="--reason", remedy="say why: whoever is refused reads it"
        )
    value, warning = freeze_node(find_project(), node, reason.strip(), getpass.getuser())
    if warning:
        click.echo(f"warning: {warning}", err=True)
    text = f"{node} is frozen; `maestro cost budget thaw` ends it"
    if (former := value["replaced"]) is not None:
        text += f"\nthis replaces the reason of {former['by']}, {former['at']}: {former['reason']}"
    emit(value, as_json, text)


@command.command(
    epilog="""\b
Example:
  maestro cost budget thaw default
"""
)
@click.argument("node")
@json_option
def thaw(node: str, as_json: bool) -> None:
    """Let NODE spend again what its budgets leave."""
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_budgets

    tree = open_budgets(find_project())
    was = tree.thaw(node)
    tree.counter.close()
    emit({"path": node, "frozen": False, "was_frozen": was}, as_json,
         f"{node} may spend again" if was else f"{node} was not frozen")  # fmt: skip


@command.command(
    epilog="""\b
Example:
  maestro cost budget recount
"""
)
@json_option
def recount(as_json: bool) -> None:
    """Count this quarter's usage anew, when the file of the counters was lost. Nothing should run."""
    from maestro_dagster.project.budget import recount_budgets
    from maestro_dagster.project.root import find_project

    count = recount_budgets(find_project())
    emit({"accounts": count}, as_json, f"{count} budget accounts were counted from the usage")


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    state = "frozen" if row["frozen"] else row["actions"][-1] if row["actions"] else "ok"
    limited = row["hard_usd"] or row["soft_usd"] or row["tokens_limit"] is not None
    return (
        row["name"],
        row["spent_usd"],
        row["reserved_usd"],
        row["soft_usd"],
        row["hard_usd"],
        row["left_usd"],
        row["percent"],
        row["renews"] and row["renews"][:10],
        state if limited or row["frozen"] else "no limit",
    )
