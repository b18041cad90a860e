"""`maestro recipe`: the shipped flows, and adding one to the project."""

from __future__ import annotations

import click

from maestro_dagster.cli.output import emit, json_option, print_table

EXAMPLE = """\b
Example:
  maestro recipe list
  maestro recipe add daily-ai-brief
"""

_CHANGED = {True: "yes", False: "no", None: None}


@click.group(name="recipe", epilog=EXAMPLE)
def command() -> None:
    """List the shipped flows, or add one to the project."""


@command.command(name="list", epilog=EXAMPLE)
@json_option
def list_command(as_json: bool) -> None:
    """List the shipped recipes and which of them the project has."""
    from maestro_dagster.errors import ProjectError
    from maestro_dagster.project.recipe import list_recipes
    from maestro_dagster.project.root import find_project

    try:
        root = find_project().root
    except ProjectError as error:
        if error.error_code != "project-missing":
            raise
        root = None  # the catalogue can be looked at from anywhere
    views = list_recipes(root)
    if as_json:
        emit({"recipes": [view.to_json() for view in views]}, as_json=True)
        return
    rows = [
        (
            view.name,
            view.version,
            view.path,
            _CHANGED[view.changed],
            view.description,
        )
        for view in views
    ]
    print_table(("recipe", "version", "here as", "changed", "what it does"), rows)


@command.command(name="add", epilog=EXAMPLE)
@click.argument("name")
@json_option
def add_command(name: str, as_json: bool) -> None:
    """Copy the recipe NAME into the project and record its digest."""
    from maestro_dagster.project.recipe import add_recipe
    from maestro_dagster.project.root import find_project

    view = add_recipe(find_project().root, name)
    emit(view.to_json(), as_json, f"added {view.path} ({view.digest})")
