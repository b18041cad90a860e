"""A project's engine, opened once per process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.project.root import Project, find_project

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import Runtime

_open: dict[tuple[int, Path, Path, str | None], Runtime] = {}


def open_runtime(project: Project | Path | None = None) -> Runtime:
    """The engine of a project (default: the one around the working directory) with what it needs.

    Raises MaestroError where something of the project cannot be used.
    """
    from maestro_dagster.project.services import open_engine
    from maestro_dagster.translate.runtime import Runtime

    found = project if isinstance(project, Project) else find_project(project)
    # A forked child opens its own: databases and child processes belong to the process that opened them.
    key = (os.getpid(), found.root, found.home, found.settings.database)
    if key not in _open:
        _open[key] = Runtime(
            open_engine(found),
            found.home,
            found.settings.default_branch,
            found.lake,
            found.settings.database,
        )
    return _open[key]
