"""The checks that a day of usage must pass before it is published, with what the project knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.errors import JournalError, ManifestError
from maestro_dagster.project.root import Project, find_project

if TYPE_CHECKING:
    from maestro_dagster.costs.check import CheckOutcome
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.stage import Candidate

EXPECTATIONS_FILE = "resources/expectations.yaml"


def open_usage_check(
    lake: Lake, project: Project | Path | str | None = None
) -> Callable[[Candidate], list[CheckOutcome]]:
    """What judges a candidate of the lake: money by SQL, shape by Great Expectations.

    `project`: None is the one around the working directory. Raises ProjectError, CostError
    (`expectations-invalid`).
    """
    from maestro_dagster.costs.known import load_project_rules

    if not isinstance(project, Project):
        project = find_project(Path(project) if project is not None else None)
    found = project
    rules = load_project_rules(found.root / EXPECTATIONS_FILE)

    def check(candidate: Candidate) -> list[CheckOutcome]:
        from maestro_dagster.costs.check import check_candidate
        from maestro_dagster.costs.known import gather_known

        known = gather_known(
            lake,
            candidate.day,
            candidate.spooled,
            rules=rules,
            tenant=found.settings.tenant,
            flows=_flow_names(found),
            has_run=_run_finder(found),
            today=datetime.now(UTC).date().isoformat(),
        )
        return check_candidate(candidate, known)

    return check


def _flow_names(project: Project) -> frozenset[str] | None:
    """None while a flow cannot be read: it might be the one."""
    try:
        return frozenset(project.flows())
    except ManifestError:
        return None


def _run_finder(project: Project) -> Callable[[str], bool]:
    """Whether the project's journal knows a run."""
    from maestro_dagster.project.database import find_journal

    journal = find_journal(project)
    if journal is None:
        return lambda _: False

    def has_run(run_id: str) -> bool:
        try:
            journal.run(run_id)
        except JournalError:
            return False
        return True

    return has_run
