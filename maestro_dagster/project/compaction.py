"""Compacting a project's usage by hand: what the asset `usage_daily` does for a day."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.errors import JournalError
from maestro_dagster.project.root import Project, find_project

if TYPE_CHECKING:
    from maestro_dagster.costs.compact import CompactionReport
    from maestro_dagster.costs.lake import Lake


def list_waiting_days(project: Project) -> tuple[str, ...]:
    """Days that the spool still has usage or lineage of, ascending.

    Raises CostError (`spool-corrupt`, `lineage-corrupt`).
    """
    from maestro_dagster.costs.lineage import lineage_days
    from maestro_dagster.project.services import open_spool

    spool = open_spool(project)
    return tuple(sorted({*spool.days(), *lineage_days(spool.lineage)}))


def compact_project_days(project: Project, days: Iterable[str]) -> Iterator[CompactionReport]:
    """Publishes each day and its cubes, or puts it into quarantine where a check blocks. Raises CostError."""
    from maestro_dagster.costs.artifact import compact_lineage
    from maestro_dagster.costs.compact import compact_day
    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.project.services import open_spool
    from maestro_dagster.project.usage_check import open_usage_check

    lake, spool = open_lake(project.lake), open_spool(project)
    check = open_usage_check(lake, project)
    ended = _ended_runs(project)
    for day in days:
        report = compact_day(spool, lake, day, ended, check)
        if not report.quarantined:
            build_cubes(lake, day)
        compact_lineage(spool.lineage, lake, day, ended)
        yield report
    commit_iceberg(lake, project)


def commit_iceberg(lake: Lake, project: Project | Path | str | None = None) -> tuple[str, ...]:
    """Brings the Iceberg table to what is published, where the setting `iceberg` wants one. Gives the days
    that were committed now. `project`: None is the one around the working directory. Raises CostError.
    """
    if not isinstance(project, Project):
        project = find_project(Path(project) if project is not None else None)
    if not project.settings.iceberg:
        return ()
    from maestro_dagster.costs.iceberg import commit_days
    from maestro_dagster.project.database import name_scope

    return commit_days(lake, name_scope(project), project.settings.database)


def _ended_runs(project: Project) -> Callable[[str], bool]:
    """A run whose evidence is written uses nothing more; an unknown one may still be anybody's."""
    from maestro_dagster.project.database import find_journal

    journal = find_journal(project)
    if journal is None:
        return lambda _: False

    def has_ended(run_id: str) -> bool:
        try:
            return journal.run(run_id).evidence_path is not None
        except JournalError:
            return False

    return has_ended
