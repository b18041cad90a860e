"""`maestro init`: make a new project and its key."""

from __future__ import annotations

from pathlib import Path

import click

from maestro_dagster.cli.output import emit, json_option

EXAMPLE = """\b
Example:
  maestro init shop && cd shop && maestro run hello
"""


@click.command(name="init", epilog=EXAMPLE)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "ecdsa-p256-sha256"]),
    default="ed25519",
    show_default=True,
    help="Algorithm of the signing key.",
)
@json_option
def command(folder: str, algorithm: str, as_json: bool) -> None:
    """Make a new project in FOLDER: a starter, its settings, and the key that signs its evidence.

    In a project that has no key, such as a fresh clone, make just the key.
    """
    import shlex

    from maestro_dagster.errors import UsageError
    from maestro_dagster.project.scaffold import init_project

    if not folder:
        raise UsageError(
            "the folder's name is empty", remedy="name a folder, or write `.` for the one you are in"
        )
    made = init_project(Path(folder), algorithm=algorithm)
    what = "project" if made.fresh else "key"
    value = {"project": str(made.root), "made": what, "public_key": made.public_key, "hint": made.hint}
    said = "made the project" if made.fresh else "made a key, and nothing else, for the project"
    place = shlex.quote(folder if not folder.startswith("-") else f"./{folder}")
    emit(
        value,
        as_json,
        lambda: (
            f"{said} {made.root}\n\n"
            "Whoever verifies its evidence needs the public half of its key:\n\n"
            f"{made.public_key.strip()}\n\nhint: {made.hint}\n\n"
            f"next: cd {place} && maestro run hello"
        ),
    )
