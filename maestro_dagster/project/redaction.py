"""The redactor that a process of the project begins with, before any run has named a secret."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from maestro_dagster.project.secret import list_secrets
from maestro_dagster.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from maestro_dagster.project.root import Project

_SHORTEST = 8  # characters: nobody named it here, and a shorter one may be an ordinary word


def open_redactor(project: Project) -> Redactor:
    """Knows the secrets in the environment, those in the state folder, and the way into the databases.

    Each process needs all of them: a server or a loop runs no step, but is told what others know, by the
    forges for example.
    """
    redactor = Redactor()
    redactor.add_environment(os.environ)
    redactor.add_all(secret for secret in list_secrets(project.home) if len(secret) >= _SHORTEST)
    for url in (project.settings.database, project.settings.budget_database):
        hide_database(url, redactor)
    return redactor


def hide_database(url: str | None, redactor: Redactor | None) -> None:
    """What a driver says of a connection that failed goes into logs."""
    if url and redactor is not None:
        if password := urlsplit(url).password:
            redactor.add(unquote(password))
        redactor.add(url)
