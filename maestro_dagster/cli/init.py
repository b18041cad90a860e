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
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "ecdsa-p256-sha256"]),
    default="ed25519",
    show_default=True,
    help="Algorithm of the signing key.",
)
@json_option
def command(folder: Path, algorithm: str, as_json: bool) -> None:
    """Make a new project in FOLDER: a starter, its settings, and the key that signs its evidence."""
    from maestro_dagster.project.scaffold import init_project

    made = init_project(folder, algorithm=algorithm)
    value = {"project": str(made.root), "public_key": made.public_key, "hint": made.hint}
    emit(
        value,
        as_json,
        lambda: (
            f"made the project {made.root}\n\n"
            "Whoever verifies its evidence needs the public half of its key:\n\n"
            f"{made.public_key.strip()}\n\nhint: {made.hint}\n\n"
            f"next: cd {folder} && maestro run hello"
        ),
    )
