"""Arguments that several commands share, with the older spellings that they accept too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from maestro_dagster.errors import UsageError

Command = Callable[..., Any]


def flow_argument(*aliases: str) -> Callable[[Command], Command]:
    """A flow's file, or the name of a flow of the project, as `flow`; `aliases` are options for the same."""
    return _argument_with_aliases("flow", "FLOW", aliases)


def run_argument(*aliases: str, required: bool = True) -> Callable[[Command], Command]:
    """A run's id as `run_id`; `aliases` are options for the same."""
    return _argument_with_aliases("run_id", "RUN", aliases, required=required)


def _argument_with_aliases(
    name: str, metavar: str, aliases: tuple[str, ...], *, required: bool = True
) -> Callable[[Command], Command]:
    alias_name = f"{name}_alias"

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (kwargs.pop(name), kwargs.pop(alias_name, None)) if value is not None]
            if len(given) > 1:
                raise UsageError(f"{metavar} is given twice", remedy=f"give it once, as {metavar}")
            if not given and required:
                raise UsageError(f"missing argument {metavar}", remedy="see --help for an example")
            return function(*args, **{name: given[0] if given else None}, **kwargs)

        decorated: Command = click.argument(name, metavar=metavar, required=False)(call)
        if aliases:
            decorated = click.option(*aliases, alias_name, hidden=True)(decorated)
        return decorated

    return decorate
