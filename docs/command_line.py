"""Writes docs/command-line.md from the commands themselves; a test compares them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

OUT = Path(__file__).parent / "command-line.md"
HEAD = """\
# The command line

Written from `--help` by `docs/command_line.py`. Every command that prints a result takes `--json`.

"""


def render() -> str:
    """The whole page."""
    from maestro_dagster.cli.main import command

    sections = [_section(name, context) for name, context in _contexts(command, "maestro")]
    return HEAD + "\n".join(sections)


def _contexts(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Context]]:
    short = name if parent is None else name.rsplit(" ", 1)[-1]
    context = click.Context(command, info_name=short, parent=parent, **command.context_settings)
    yield name, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden and child != "template":
                yield from _contexts(found, f"{name} {child}", context)


def _section(name: str, context: click.Context) -> str:
    depth = "#" * min(2 + name.count(" "), 4)
    context.terminal_width = context.max_content_width = 100
    return f"{depth} {name}\n\n```text\n{context.get_help().rstrip()}\n```\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if OUT.read_text(encoding="utf-8") == render() else "run `python docs/command_line.py`")
    OUT.write_text(render(), encoding="utf-8")
