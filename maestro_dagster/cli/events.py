"""`maestro events`: what hooks and forges told, what of it waits, and how to let go of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.cli.request import actor_name, person_option

if TYPE_CHECKING:
    from maestro_dagster.events.waiting import Entry
    from maestro_dagster.project.clone import Locate

STATES = ("waiting", "requested", "dropped")
_ABOUT = {"waiting": "why", "requested": "runs", "dropped": "dropped by"}


@click.command(
    epilog="""\b
The loop of `maestro dev` takes what waits, and tries again what it could not take: what `clone` in
resources/forges.yaml says then counts. An event that is dropped starts nothing; who dropped it is kept.

\b
Example:
  maestro events
  maestro events --drop webhook-0123456789abcdef
  maestro events --repository shop --drop-all
"""
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option(
    "--state",
    type=click.Choice(STATES),
    default="waiting",
    show_default=True,
    help="Only events that stand so.",
)
@click.option("--repository", metavar="NAME", help="Only events of this repository.")
@click.option("--drop", metavar="ID", multiple=True, help="Drop this event; may be repeated.")
@click.option("--drop-all", is_flag=True, help="Drop all that wait, with --repository those of one.")
@person_option
@json_option
def command(
    limit: int,
    state: str,
    repository: str | None,
    drop: tuple[str, ...],
    drop_all: bool,
    person: str | None,
    as_json: bool,
) -> None:
    """Show events of repositories that wait to become runs, or drop them."""
    import time

    from maestro_dagster.events.waiting import count_states, drop_events, list_entries, list_waiting
    from maestro_dagster.project.clone import open_locator
    from maestro_dagster.project.intake import has_inbox, open_inbox
    from maestro_dagster.project.root import find_project

    project = find_project()
    value: dict[str, Any] = {"counts": dict.fromkeys(STATES, 0), "dropped": [], "events": []}
    if drop or has_inbox(project):
        inbox = open_inbox(project)
        try:
            chosen = list_waiting(inbox.database, repository) if drop_all else list(drop)
            if chosen:
                drop_events(inbox.database, chosen, actor_name(person), time.time())
            entries = list_entries(inbox.database, state, repository, limit)
            value["events"] = [_row(entry, open_locator(project)) for entry in entries]
            value["counts"], value["dropped"] = count_states(inbox.database), chosen
        finally:
            inbox.close()
    if as_json:
        emit(value, as_json=True)
    else:
        _show(value, state)


def _row(entry: Entry, locate: Locate) -> dict[str, Any]:
    from maestro_dagster.project.clone import find_fault

    event = entry.event
    return {
        "id": event.event_id,
        "repository": event.name or event.repository,
        "kind": event.kind,
        "ref": event.ref,
        "after": event.after,
        "source": event.source,
        "received_at": event.received_at,
        "state": entry.state,
        "fault": find_fault(event, locate) if entry.state == "waiting" else "",
        "runs": list(entry.run_ids),
        "dropped": event.facts.get("dropped"),
    }


def _show(value: dict[str, Any], state: str) -> None:
    if value["dropped"]:
        click.echo(f"{len(value['dropped'])} events are dropped; they start nothing")
    if value["events"]:
        print_table(
            ["event", "repository", "kind", "ref", "came", _ABOUT[state]],
            [
                (
                    row["id"],
                    row["repository"],
                    row["kind"],
                    row["ref"],
                    _moment(row["received_at"]),
                    _tell(row),
                )
                for row in value["events"]
            ],
        )
        click.echo()
    counts = value["counts"]
    click.echo(", ".join(f"{counts[name]} {name}" for name in STATES))


def _tell(row: dict[str, Any]) -> str | None:
    if row["dropped"]:
        return f"{row['dropped']['by']}, {_moment(row['dropped']['at'])}"
    return row["fault"] or " ".join(row["runs"]) or None


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
