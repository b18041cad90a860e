"""Where the repositories of webhooks are fetched from: what resources/forges.yaml says now.

An event keeps the `clone` of its delivery. That one may be wrong, and be corrected while the event waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from maestro_dagster.errors import EventError
from maestro_dagster.project.webhook import ForgeFault, ForgeFile

if TYPE_CHECKING:
    from maestro_dagster.events.forge import ForgeRepository
    from maestro_dagster.events.interface import RepositoryEvent
    from maestro_dagster.project.root import Project

Locate = Callable[["RepositoryEvent"], "RepositoryEvent"]


def open_locator(project: Project) -> Locate:
    """Gives an event with the `clone` that its repository has now.

    It raises EventError: `repository-unknown` for one that is in the file no more, `forges-invalid`.
    """
    forges = ForgeFile(project)

    def locate(event: RepositoryEvent) -> RepositoryEvent:
        if event.source != "webhook":
            return event
        clone = next((forge.clone for forge in forges.read() if forge.name == event.name), None)
        if clone is None:
            raise EventError(
                "the repository is not in resources/forges.yaml any more",
                place=event.name,
                remedy="put it back, or drop what waits for it: "
                f"`maestro events --repository {event.name} --drop-all`",
                code="repository-unknown",
            )
        return event if clone == event.repository else replace(event, repository=clone)

    return locate


def check_clone(forge: ForgeRepository) -> ForgeFault | None:
    """Whether `clone` is a repository, where that is a folder of this machine."""
    from maestro_dagster.events.refs import is_remote

    if forge.clone.startswith("file://"):
        return _check_folder(forge, unquote(urlsplit(forge.clone).path))
    return None if is_remote(forge.clone) else _check_folder(forge, forge.clone)


def find_fault(event: RepositoryEvent, locate: Locate) -> str:
    """Why an event waits, as far as that is seen without asking a server; empty where it is not."""
    from maestro_dagster.events.refs import is_remote

    try:
        found = locate(event)
        if not is_remote(found.repository):
            _look(found.repository)
    except EventError as error:
        return error.fact
    return ""


def _check_folder(forge: ForgeRepository, folder: str) -> ForgeFault | None:
    try:
        _look(folder)
    except EventError as error:
        return ForgeFault(
            "error",
            f"{forge.name}: {error.fact} ({forge.clone})",
            f"correct `clone` of {forge.name} in resources/forges.yaml; what waits for it is taken then",
        )
    return None


def _look(folder: str) -> None:
    from maestro_dagster.events.git import run_git

    run_git(folder, "rev-parse", "--git-dir")
