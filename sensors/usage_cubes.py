"""Builds the cubes of each day whose usage was published anew: by the schedule, by hand, or by retention."""

from collections.abc import Iterator

import dagster as dg

from maestro_dagster.costs.cube import stale_days
from maestro_dagster.translate.resource import LakeResource

FIRST_DAY = "2026-01-01"  # of the partitions of `usage_cubes`
MOST = 50  # days a tick


@dg.sensor(
    target=dg.AssetSelection.assets("usage_cubes"),
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def usage_cubes_sensor(lake: LakeResource) -> Iterator[dg.RunRequest]:
    usage = lake.open().usage
    for day in stale_days(lake.open(), since=FIRST_DAY)[-MOST:]:
        manifest = usage.manifest(day)
        if manifest is not None:
            yield dg.RunRequest(run_key=f"{day}/{manifest.sha256[:16]}", partition_key=day)
