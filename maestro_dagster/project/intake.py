"""A project's inbox with the flows that its events start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.events.inbox import Inbox
    from maestro_dagster.events.mirror import Mirrors
    from maestro_dagster.workers.intake import Intake


def open_inbox(project: Project) -> Inbox:
    """The folder for drops, and the events in a file beside it or in the project's database."""
    from maestro_dagster.events.inbox import TABLES, WORDING, Inbox
    from maestro_dagster.project.database import inbox_file, open_room

    database = open_room(project, "inbox", inbox_file(project), tables=TABLES, wording=WORDING)
    return Inbox(project.inbox, database)


def has_inbox(project: Project) -> bool:
    """Whether anything can be in the inbox: looking makes no file."""
    from maestro_dagster.project.database import inbox_file

    return project.settings.database is not None or inbox_file(project).exists()


def knows_webhooks(project: Project) -> bool:
    """Whether a forge ever told anything."""
    from maestro_dagster.events.figure import count_events
    from maestro_dagster.events.inbox import TABLES, WORDING
    from maestro_dagster.project.database import inbox_file, open_room

    if not has_inbox(project):
        return False
    database = open_room(project, "inbox", inbox_file(project), tables=TABLES, wording=WORDING)
    try:
        return any(source == "webhook" for source, _ in database.run_read(count_events))
    finally:
        database.close()


def open_mirrors(project: Project, *, wait: bool = False) -> Mirrors:
    """The mirrors of remote repositories. Each is read with its forge's token where that has its `api`."""
    from maestro_dagster.events.mirror import Mirrors

    return Mirrors(project.home / "cache" / "git", lambda url: _find_credential(project, url), wait=wait)


def _find_credential(project: Project, url: str) -> str | None:
    """Asked at each fetch, so that a token that was renewed counts at once."""
    from maestro_dagster.events.forge import read_forges
    from maestro_dagster.events.mirror import make_credential
    from maestro_dagster.events.report_desk import takes_token
    from maestro_dagster.project.secret import secret_source

    find = secret_source(project.home)
    for forge in read_forges(project.root / "resources" / "forges.yaml"):
        if forge.clone != url or not forge.token or not takes_token(forge):
            continue
        if token := find(forge.token):
            return make_credential(forge.forge, token)
    return None


def open_intake(project: Project, say: Callable[[str], None], *, wait: bool = False) -> Intake:
    """What turns events into requested runs; `say` is told of events and flows that cannot be read.

    With `wait` remote repositories are fetched while the caller waits, else beside it.
    """
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.project.clone import open_locator
    from maestro_dagster.project.database import open_journal
    from maestro_dagster.project.report import hurry_release
    from maestro_dagster.project.trace import trace_requests
    from maestro_dagster.steps.catalogue import load_catalogue
    from maestro_dagster.workers.intake import FlowFolder, Intake

    inbox = open_inbox(project)
    return Intake(
        inbox=inbox,
        flows=FlowFolder(project.flow_files, lambda path: read_flow(path, load_catalogue()), say),
        request=trace_requests(project, inbox, open_journal(project).request),
        say=say,
        mirrors=open_mirrors(project, wait=wait),
        locate=open_locator(project),
        released=lambda event: hurry_release(project, event),
        default_branch=project.settings.default_branch,
        region=project.settings.request_region,
    )
