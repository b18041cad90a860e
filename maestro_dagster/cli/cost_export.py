"""`maestro cost export`: usage as a file for other tools, with a signed statement of what is in it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.cost_period import check_days, day_option
from maestro_dagster.cli.output import emit, json_option
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.project.export import SignedExport

_FORMATS = ("csv", "parquet", "focus", "focus-csv")
_NO_END = "9999-12"  # its end is in a year of five digits
_SILENCE = 2.0  # seconds until progress is told, and between two tellings


@click.command(
    epilog="""\b
focus is FOCUS 1.2 in Parquet, focus-csv the same as CSV; an event without a price has no place in it
and is counted instead. FILE.sigstore.json says period, rows, sum and digest, signed by the project's key.

\b
Example:
  maestro cost export --format parquet -o usage.parquet --since 2026-01-01
  maestro cost export --format focus -o january.parquet --since 2026-01-01 --until 2026-01-31
  maestro verify january.parquet.sigstore.json --artifact january.parquet
"""
)
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True, help="Form of the file.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file."
)
@day_option("--since", "First day")
@day_option("--until", "Last day")
@click.option("--shared", is_flag=True, help="Append shared costs of the whole months of the period (FOCUS).")
@click.option("--no-sign", is_flag=True, help="Write no signed statement beside the file.")
@click.option("--webhook", metavar="URL", help="Tell this URL of the export, signed; retried until taken.")
@click.option("--attach", is_flag=True, help="Send the file to the webhook too, up to 1 MB.")
@json_option
def command(
    form: str,
    output: Path,
    since: str | None,
    until: str | None,
    shared: bool,
    no_sign: bool,
    webhook: str | None,
    attach: bool,
    as_json: bool,
) -> None:
    """Write the usage of a period to a file: every event, or rows of FOCUS 1.2."""
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.webhook import check_url
    from maestro_dagster.project.export import (
        export_period,
        find_signer,
        find_webhook_secret,
        list_shared_charges,
        send_period,
    )
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    check_days(since, until)
    if attach and webhook is None:
        raise UsageError("--attach needs --webhook", remedy="say where the file is to be sent")
    if shared and not (form.startswith("focus") and since and until):
        raise UsageError(
            "--shared needs a FOCUS format and a period", remedy="add --format focus, --since and --until"
        )
    if shared and until is not None and until >= _NO_END:
        raise UsageError(
            "no file can say when that month ends", place="--until", remedy="give an earlier day"
        )
    project = find_project()
    signer = None if no_sign else find_signer(project)
    if webhook is not None:  # nothing is written when it could not be sent anyway
        check_url(webhook, project.settings.network_allow_private)
        find_webhook_secret(project)
    export = export_period(
        open_lake(project.lake),
        output,
        form,
        signer,
        spool=open_spool(project),
        since=since,
        until=until,
        charges=list_shared_charges(project, since, until) if shared and since and until else (),
        progress=_Progress(),
    )
    told = _describe(export)
    if left_out := export.statement.left_out:
        quantities = ", ".join(f"{value} {name}" for name, value in left_out.items())
        _say(f"left out: {export.statement.unknown} events without a price ({quantities})")
    elif export.statement.unknown and export.statement.left_out_of_file:
        _say(f"left out: {export.statement.unknown} events without a price")
    if webhook is not None:
        delivery, attached = send_period(project, export, webhook, attach=attach)
        told["webhook"] = {
            "id": delivery.id,
            "host": delivery.host,
            "status": delivery.status,
            "attempts": delivery.attempts,
            "attached": attached,
        }
        if attach and not attached:
            _say("the file is larger than 1 MB and was not attached")
    emit(told, as_json, lambda: _text(told))


def _describe(export: SignedExport) -> dict[str, Any]:
    figures = export.statement.to_json()
    period = figures.pop("period")
    return {
        **figures,
        **period,
        "file": str(export.path),
        "statement": str(export.seal) if export.seal else None,
        "webhook": None,
    }


def _text(told: dict[str, Any]) -> str:
    text = f"{told['rows']} rows, {told['sum_usd']} USD, to {told['file']}"
    if told["first_day"]:
        text += f"\nfrom {told['first_day']} to {told['last_day']}"
    if told["events_without_price"]:
        text += f"\n{told['events_without_price']} events have no price"
    if told["statement"]:
        text += f"\nsigned in {told['statement']}"
    if told["webhook"]:
        text += f"\nsent to {told['webhook']['host']} (attempt {told['webhook']['attempts']})"
    return text


def _say(text: str) -> None:
    print(text, file=sys.stderr)


class _Progress:
    """A line on stderr for what takes long."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, day: str, events: int) -> None:
        if time.monotonic() - self._told > _SILENCE:
            self._told = time.monotonic()
            _say(f"{day}, {events} events so far")
