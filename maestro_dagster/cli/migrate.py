"""`maestro migrate`: moves the project's records into its PostgreSQL."""

from __future__ import annotations

import click

from maestro_dagster.cli.output import emit, json_option


@click.command(
    epilog="""\b
Example:
  maestro migrate
  maestro migrate --json
"""
)
@json_option
def command(as_json: bool) -> None:
    """Move this project into the PostgreSQL that the setting `database` names.

    Makes its tables or brings them up to date, then copies what the files of the home hold: runs, events,
    reports, budgets, waiting usage. All of it is copied and compared, or nothing. The files stay. Running it
    again changes nothing. Stop every `maestro dev` that uses the files or the database first; where there is
    nothing to do, that is said, and they may run.
    """
    from maestro_dagster.project.migrate import migrate_project
    from maestro_dagster.project.root import find_project

    found = migrate_project(find_project(), lambda text: click.echo(text, err=True))

    def text() -> str:
        if found.before == found.after:
            tables = f"the tables are those of revision {found.after}"
        elif found.before is None:
            tables = f"the tables were made, of revision {found.after}"
        else:
            tables = f"the tables were upgraded from revision {found.before} to {found.after}"
        rows = "\n".join(f"  {name:<12} {count:>9}" for name, count in found.rows.items())
        if found.nothing:
            tables += "; there was nothing to do"
        head = "copied before:" if found.repeated else "copied and compared:"
        return f"{found.place}: {tables}\n{head}\n{rows}\n  {'usage':<12} {found.usage:>9}"

    emit(found.to_json(), as_json, text)
