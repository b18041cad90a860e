"""A project's inbox with the flows that its pushes start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.events.inbox import Inbox
    from maestro_dagster.workers.intake import Intake


def open_inbox(project: Project) -> Inbox:
    """The folder for drops, and the events in a file beside it or in the project's database."""
    from maestro_dagster.events.inbox import TABLES, WORDING, Inbox
    from maestro_dagster.project.database import inbox_file, open_room

    database = open_room(project, "inbox", inbox_file(project), tables=TABLES, wording=WORDING)
    return Inbox(project.inbox, database)


def open_intake(project: Project, say: Callable[[str], None]) -> Intake:
    """What turns pushes into requested runs; `say` is told of pushes and flows that cannot be read."""
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.project.database import open_journal
    from maestro_dagster.steps.catalogue import load_catalogue
    from maestro_dagster.workers.intake import FlowFolder, Intake

    return Intake(
        inbox=open_inbox(project),
        flows=FlowFolder(project.flow_files, lambda path: read_flow(path, load_catalogue()), say),
        request=open_journal(project).request,
        say=say,
        default_branch=project.settings.default_branch,
        region=project.settings.request_region,
    )
