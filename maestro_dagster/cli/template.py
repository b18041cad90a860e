"""`maestro template lint`: the older name of `maestro flow lint`."""

from __future__ import annotations

import click

from maestro_dagster.cli.lazy import LazyGroup, Row

_FLOW = "maestro_dagster.cli.flow:command"


@click.group(cls=LazyGroup, table={"lint": Row(f"{_FLOW}.lint", "The same as `maestro flow lint`.")})
def command() -> None:
    r"""The same as `maestro flow`, under its older name.

    \b
    Example:
      maestro template lint flow.yaml
    """
