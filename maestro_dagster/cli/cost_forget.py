"""`maestro cost forget`: nobody can tell any more which usage was a person's."""

from __future__ import annotations

import click

from maestro_dagster.cli.output import emit, json_option, print_table


@click.command(
    epilog="""\b
Example:
  maestro cost forget ada@example.org --reason "request 17"
  maestro cost forget ada@example.org --reason "request 17" --yes --json
"""
)
@click.argument("person", metavar="PERSON")
@click.option(
    "--reason", required=True, help="Why: a case or request. It is kept, so it must not name PERSON."
)
@click.option("--tenant", help="Only in this tenant; default: in all.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(person: str, reason: str, tenant: str | None, yes: bool, as_json: bool) -> None:
    """Forget PERSON (an e-mail address or user name) in the usage data.

    Usage carries a random surrogate; what links it to PERSON is destroyed. Sums, files and evidence
    stay as they are. This cannot be undone.
    """
    from maestro_dagster.project.removal import forget_person, open_subjects
    from maestro_dagster.project.root import find_project

    project = find_project()
    if not yes:
        count = len(open_subjects(project).find(person, tenant))
        if count:
            click.confirm(
                f"Destroy {count} surrogate{'s' * (count > 1)} of this person for good?", abort=True, err=True
            )
    report = forget_person(project, person, reason, tenant)
    if as_json:
        emit(report.to_json(), as_json=True)
        return
    if report.forgotten:
        print_table(
            ["tenant", "surrogate", "proof"],
            [(one["tenant"], one["surrogate"], one["proof"][:16]) for one in report.forgotten],
        )
    else:
        click.echo("the usage data knows nobody by that name")
    if report.restored:
        click.echo(f"{len(report.restored)} people whom a backup had brought back were forgotten again")
