"""A click group whose commands are imported when they are used, so that `--help` stays fast."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Row(NamedTuple):
    """Where a command is (`module:attribute`, or `module:group.sub`), and the line that help shows."""

    target: str
    summary: str
    hidden: bool = False


class LazyGroup(click.Group):
    """Shows the summaries of `table` without importing any command."""

    def __init__(self, *args: Any, table: Mapping[str, Row] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table: Mapping[str, Row] = table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self.table.get(cmd_name)
        if row is None:
            return super().get_command(ctx, cmd_name)
        module, _, path = row.target.partition(":")
        found: Any = getattr(importlib.import_module(module), path.split(".")[0])
        for name in path.split(".")[1:]:
            found = found.get_command(ctx, name)
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"there is no command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, row.summary) for name, row in self.table.items() if not row.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
