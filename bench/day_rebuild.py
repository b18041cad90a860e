"""One event comes late: its day is rebuilt, usage and cubes, against rebuilding every day of the lake.

30 days of 200,000 events (MAESTRO_BENCH_ROWS says otherwise). Both sides find one late event a day in the
spool that they rebuild, and end with the same sums in lake and cubes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

DAYS = 30
ROWS = int(os.environ.get("MAESTRO_BENCH_ROWS", "200000"))


def prepare(folder: Path) -> None:
    from usage_data import day_range, write_lake

    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.lake import open_lake

    write_lake(folder / "lake", day_range(DAYS), ROWS)
    for day in day_range(DAYS):
        build_cubes(open_lake(folder / "lake"), day)


def one_day(folder: Path) -> dict[str, float]:
    from usage_data import day_range

    return _rebuild(folder, day_range(DAYS)[DAYS // 2 : DAYS // 2 + 1])


def all_days(folder: Path) -> dict[str, float]:
    from usage_data import day_range

    return _rebuild(folder, day_range(DAYS))


def _rebuild(folder: Path, days: Sequence[str]) -> dict[str, float]:
    from maestro_dagster.costs.compact import compact_day
    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.event import UsageScope
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool

    # Published files are replaced, never changed: links to them are as good as copies.
    shutil.copytree(Path(os.environ["MAESTRO_BENCH_DATA"]) / "lake", folder / "lake", copy_function=os.link)
    spool, lake = Spool(folder / "spool"), open_lake(folder / "lake")
    late = UsageScope("tenant-00", "late", "flow-00", "step-00-0", 1).make_event("llm", cost_nano=7)
    warm = "2025-01-01"  # imports and threads are nobody's share
    for day in (warm, *days):
        with spool.open_run(f"late-{day}") as writer:
            writer.append([replace(late, event_id=f"late-{day}", occurred_at=f"{day}T12:00:00.000000Z")])
    compact_day(spool, lake, warm, lambda _: True)
    build_cubes(lake, warm)
    before = {day: lake.usage.verify_day(day).sum_nano for day in days}
    begun = time.monotonic()
    for day in days:
        report = compact_day(spool, lake, day, lambda _: True)
        cubes = build_cubes(lake, day)
        assert report.balanced
        assert report.sum_nano == cubes.sum_nano == before[day] + 7
    return {"value": time.monotonic() - begun}
