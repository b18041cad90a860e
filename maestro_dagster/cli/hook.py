"""`maestro hook`: let a Git repository tell the project of its pushes."""

from __future__ import annotations

from pathlib import Path

import click

from maestro_dagster.cli.output import emit, json_option

EPILOG = """\b
Example:
  maestro hook install /srv/git/shop.git
"""


@click.group(name="hook", epilog=EPILOG)
def command() -> None:
    """Let a Git repository tell the project of its pushes."""


@command.command(epilog=EPILOG)
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option("--name", help="What runs call the repository; its folder's name if not given.")
@json_option
def install(repository: Path, name: str | None, as_json: bool) -> None:
    """Add a post-receive hook to REPO that records each push in the project's inbox.

    An existing hook is kept and called after it. Running this again renews the hook.
    """
    from maestro_dagster.events.hook import install_hook
    from maestro_dagster.project.root import find_project

    project = find_project()
    if name is None:
        place = str(repository.resolve())
        name = next((known for known, path in project.repositories.items() if path == place), None)
    hook = install_hook(repository, project.inbox, name, project.repositories)

    def text() -> str:
        state = "installed" if hook.changed else "already there"
        kept = f"\nkept:  {hook.chained} (called after it)" if hook.chained else ""
        return f"{state}: {hook.path}\nname:  {hook.name}\ninbox: {hook.inbox}{kept}"

    emit(hook.to_json(), as_json, text)
