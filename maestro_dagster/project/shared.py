"""The shared cost of a project's month, divided by what lake and spool say was used."""

from __future__ import annotations

from calendar import monthrange
from typing import TYPE_CHECKING

from maestro_dagster.costs.allocate import SharedRow, allocate_shared
from maestro_dagster.costs.shared import is_month, read_shared
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.costs.weight import Weights
    from maestro_dagster.project.root import Project


def divide_shared(project: Project, month: str) -> tuple[tuple[SharedRow, ...], Weights]:
    """The rows of a month (YYYY-MM, UTC) and what they were divided by.

    `costs.allocate.list_charges` makes charges of the rows for a FOCUS export. Raises UsageError for what
    is no month, CostError (`shared-invalid`, `lake-damaged`).
    """
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.weight import weigh_usage
    from maestro_dagster.project.services import open_spool

    if not is_month(month):
        raise UsageError(f"{month!r} is no month", remedy="write it as YYYY-MM, such as 2026-01")
    lines = read_shared(project.root / "resources" / "shared.yaml")
    last = monthrange(int(month[:4]), int(month[5:]))[1]
    weights = weigh_usage(
        open_lake(project.lake), open_spool(project), since=f"{month}-01", until=f"{month}-{last:02d}"
    )
    return allocate_shared(lines, month, weights.usage), weights
