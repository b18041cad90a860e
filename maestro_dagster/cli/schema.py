"""`maestro schema`: the JSON Schema of a flow."""

from __future__ import annotations

import click

from maestro_dagster.cli.output import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:  # noqa: ARG001 - the schema is JSON either way
    r"""Print the JSON Schema (2020-12) of a flow in the canonical dialect.

    \b
    Example:
      maestro schema > flow.schema.json
    """
    from maestro_dagster.manifest.schema import schema_text

    click.echo(schema_text(), nl=False)
