"""The usage lake: tables of Parquet files by day, in a folder or behind an fsspec URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maestro_dagster.costs.artifact import (
    ARTIFACT_INDEX,
    ARTIFACT_LAYOUT,
    ARTIFACT_ORDER,
    ARTIFACTS,
    INDEX_LAYOUT,
    INDEX_ORDER,
)
from maestro_dagster.costs.folder import LocalFolder, RemoteFolder, open_folder
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.schema import SORT, USAGE_LAYOUT, complete_usage
from maestro_dagster.costs.table import LakeTable, in_period

USAGE = "usage_daily"
_OPTIONS: dict[str, dict[str, Any]] = {
    USAGE: {"order": SORT, "complete": complete_usage, "layout": USAGE_LAYOUT},
    ARTIFACTS: {"order": ARTIFACT_ORDER, "layout": ARTIFACT_LAYOUT},
    ARTIFACT_INDEX: {"order": INDEX_ORDER, "layout": INDEX_LAYOUT},
}


class Lake:
    """All tables of one lake. `usage` is the one that everything else is built from."""

    def __init__(self, folder: LocalFolder | RemoteFolder) -> None:
        self._folder = folder
        self._tables: dict[str, LakeTable] = {}  # one object a table: it knows which days it holds
        self.usage = self.table(USAGE)

    @property
    def location(self) -> str:
        return self._folder.place("")

    @property
    def files(self) -> Any:
        """The fsspec file system of an object store, None for a local folder."""
        return self._folder.files if isinstance(self._folder, RemoteFolder) else None

    def table(self, name: str) -> LakeTable:
        if name not in self._tables:
            self._tables[name] = LakeTable(self._folder.child(name), name, **_OPTIONS.get(name, {}))
        return self._tables[name]

    def read_events(
        self, *, run_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> list[UsageEvent]:
        """Events of the days from `since` up to and including `until` (YYYY-MM-DD)."""
        from maestro_dagster.costs.frame import frame_of, list_events

        filters = [("run_id", "=", run_id)] if run_id is not None else None
        found: list[UsageEvent] = []
        for day in self.usage.days():
            if in_period(day, since, until):
                table = self.usage.read_day(day, filters=filters)
                found += list_events(frame_of(table)) if table is not None else []
        return found


def open_lake(location: str | Path) -> Lake:
    """A lake by path or fsspec URL (`s3://bucket/lake`). Raises CostError (`lake-location`)."""
    return Lake(open_folder(location))


def lake_total(lake: Lake, run_id: str) -> tuple[int, int]:
    """(nano-USD, events without a price) of a run over all days."""
    from maestro_dagster.costs.table import measure

    found = (
        lake.usage.read_day(day, ["run_id", "cost_usd"], [("run_id", "=", run_id)])
        for day in lake.usage.days()
    )
    sums = [measure(table) for table in found if table is not None]
    return sum(known for known, _ in sums), sum(unknown for _, unknown in sums)
