"""How every command prints: values, tables and errors, for people and for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO, TypeVar

import click

from maestro_dagster.errors import MaestroError

F = TypeVar("F", bound=Callable[..., Any])

json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def emit(value: Any, as_json: bool, text: Callable[[], str] | str | None = None) -> None:
    """Prints `value` as one JSON document, or `text` (made only when it is needed) for people."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
        return
    shown = text() if callable(text) else text
    click.echo(shown if shown is not None else json.dumps(value, ensure_ascii=False, indent=2, default=str))


def emit_line(value: Any) -> None:
    """One JSON document on one line (NDJSON), flushed: for streams that somebody follows."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table: drawn on a terminal, aligned plain text elsewhere. Cells are shown by `str`, None as `-`."""
    cells = [["-" if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    if on_terminal(sys.stdout):
        _draw_table(columns, cells, title)
        return
    if title:
        click.echo(title)
    table = [list(columns), *cells]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_error(error: MaestroError, *, as_json: bool) -> int:
    """Fact, place and remedy of an error, to where the caller looks for it. Gives the exit code."""
    if as_json:
        click.echo(json.dumps({"error": error.to_json()}, ensure_ascii=False))
        return error.exit_code
    head = f"error[{error.error_code}]:"
    colour = on_terminal(sys.stderr)
    click.echo(f"{click.style(head, fg='red', bold=True) if colour else head} {error.fact}", err=True)
    if error.place:
        click.echo(f"  place:  {error.place}", err=True)
    if error.remedy:
        click.echo(f"  remedy: {error.remedy}", err=True)
    return error.exit_code


def on_terminal(stream: TextIO) -> bool:
    """Whether colours and drawn tables are wanted there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _draw_table(columns: Sequence[str], rows: list[list[str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _printable(text: str) -> str:
    """Without control characters: a name from a flow must not move the cursor of a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
