"""`maestro report`: what forges were told of runs, and what still waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table

if TYPE_CHECKING:
    from maestro_dagster.events.outbox import Entry

STATES = ("due", "sent", "given-up", "no-release")


@click.command(
    epilog="""\b
The loop of `maestro dev` sends what is due. What the forge refuses is given up after some tries; what waits
for a forge or for a token is tried for three days. Evidence for a tag of which the forge has no release is
tried for a day.

\b
Example:
  maestro report --state given-up
  maestro report --retry
"""
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option("--state", type=click.Choice(STATES), help="Only reports that stand so.")
@click.option("--retry", is_flag=True, help="Send again what was given up or waits for its next try.")
@json_option
def command(limit: int, state: str | None, retry: bool, as_json: bool) -> None:
    """Show what forges were told of runs: statuses, comments, evidence of releases."""
    from maestro_dagster.project.report import has_outbox, open_outbox
    from maestro_dagster.project.root import find_project

    project = find_project()
    value: dict[str, Any] = {"counts": dict.fromkeys(STATES, 0), "retried": 0, "reports": []}
    if has_outbox(project):
        outbox = open_outbox(project)
        value["retried"] = outbox.retry(time.time()) if retry else 0
        value["reports"] = [_row(entry) for entry in outbox.entries(limit, state)]
        value["counts"] = outbox.counts()
        outbox.close()
    if as_json:
        emit(value, as_json=True)
    else:
        _show(value, state, retried=retry)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "target": entry.target,
        "repository": entry.repository,
        "kind": entry.kind,
        "state": entry.state,
        "tries": entry.tries,
        "changed_at": entry.changed_at,
        "sent_at": entry.sent_at,
        "due_at": entry.due_at if entry.state == "due" else None,
        "error": None if entry.error is None else dict(entry.error),
    }


def _until(due_at: float | None, now: float) -> str | None:
    if due_at is None:
        return None
    return "now" if due_at <= now else f"in {max(1, int((due_at - now) / 60))} min"


def _show(value: dict[str, Any], state: str | None, *, retried: bool) -> None:
    if retried:
        click.echo(f"{value['retried']} reports are due now; the loop of `maestro dev` sends them")
    if not value["reports"]:
        told = "no such reports" if state else "nothing was reported yet"
        click.echo(f"{told}; forges with a `token` in resources/forges.yaml are reported to")
        return
    now = time.time()
    rows = [
        (
            row["target"],
            row["state"],
            row["tries"] or None,
            _until(row["due_at"], now),
            row["error"]["fact"] if row["error"] else None,
        )
        for row in value["reports"]
    ]
    print_table(["report", "state", "failed tries", "next try", "last error"], rows)
    counts = value["counts"]
    told = f"{counts['due']} due, {counts['sent']} sent, {counts['given-up']} given up"
    click.echo(f"\n{told}, {counts['no-release']} without a release")
