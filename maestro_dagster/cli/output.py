"""How every command prints: values, tables and errors, for people and for scripts."""

from __future__ import annotations

import io
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


class ReaderGoneError(Exception):
    """Nobody reads the standard output any more. No OSError: click would end the process over it."""


class OutputFailedError(MaestroError):
    """What a command had to say could not be written."""

    code = "output-failed"


class _Output(io.FileIO):
    """The standard output. Tells its own failures from those of the command's work."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            raise OutputFailedError(
                f"the output could not be written: {error.strerror}",
                place="standard output",
                remedy="see where it goes to: the disk may be full",
            ) from error


def guard_stdout() -> None:
    """Called once, before anything is printed by the process."""
    for number in range(3):  # a closed one would become the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as we live
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",  # never fail over a letter that the terminal does not have
            line_buffering=sys.stdout.line_buffering,
        )
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as above


def mute_stdout() -> None:
    """What is left in the buffer must not raise again while Python shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
