"""The period that the verbs of `maestro cost` look at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageEvent
    from maestro_dagster.project.root import Project

_DAY = click.DateTime(["%Y-%m-%d"])


def day_option(name: str, what: str) -> Callable[[Any], Any]:
    """An option that takes a day of UTC."""
    return click.option(name, type=_DAY, help=f"{what}, YYYY-MM-DD (UTC).")


def read_period(run_id: str | None, since: Any, until: Any) -> list[UsageEvent]:
    """Raises UsageError for a period that ends before it begins, JournalError (`run-unknown`)."""
    from maestro_dagster.costs.compact import read_usage
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.project.root import find_project

    if since and until and since > until:
        raise UsageError(
            f"--since {since:%Y-%m-%d} is after --until {until:%Y-%m-%d}", remedy="exchange the two days"
        )
    project: Project = find_project()
    read = functools.partial(read_usage, Spool(project.spool), open_lake(project.lake), run_id=run_id)
    found = read(since=since and f"{since:%Y-%m-%d}", until=until and f"{until:%Y-%m-%d}")
    # Usage may outlive the journal, so only a run that neither of them knows is unknown.
    if run_id is not None and not found and not read():
        from maestro_dagster.project.services import open_journal

        open_journal(project).run(run_id)
    return found
