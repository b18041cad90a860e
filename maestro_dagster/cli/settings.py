"""`maestro settings`: every setting, its value, and where the value comes from."""

from __future__ import annotations

import json
from typing import Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table

EXAMPLE = """\b
Example:
  MAESTRO_ENV=staging maestro settings
"""


@click.command(name="settings", epilog=EXAMPLE)
@json_option
def command(as_json: bool) -> None:
    """Print the project's settings; each may be overridden by its environment variable."""
    from maestro_dagster.project.root import find_project

    project = find_project()
    rows = project.settings.table()
    if as_json:
        emit({"project": str(project.root), "home": str(project.home), "settings": rows}, as_json=True)
        return
    click.echo(f"project: {project.root}\nhome:    {project.home}\n")
    table = [(row["name"], _plain(row["value"]), row["origin"], row["description"]) for row in rows]
    print_table(("setting", "value", "origin", "what it is"), table)


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value)
