"""The usage of a day, from the spool into Parquet: who used what in which step, and what it cost.

Any tool may read the files; `maestro cost report` and `maestro cost export` do. Materialise a day again
whenever late usage came in: it is rebuilt, and each event counts once.
"""

import dagster as dg

from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource

FIRST_DAY = "2026-01-01"


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1),
    group_name="costs",
    kinds={"polars", "parquet"},
    description="Usage events of a day, each once, with their cost to the nano-dollar.",
    check_specs=[
        dg.AssetCheckSpec(
            "spool_equals_lake",
            asset="usage_daily",
            blocking=True,
            description="The day's events cost the same in the spool and in the lake, difference exactly 0.",
        )
    ],
)
def usage_daily(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    report = lake.compact(context.partition_key)
    check = dg.AssetCheckResult(
        check_name="spool_equals_lake",
        passed=report.balanced,
        metadata={
            "spool_usd": format_nano(report.spool_sum_nano),
            "lake_usd": format_nano(report.lake_sum_nano),
        },
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.rows,
            "day": report.day,
            "rows_added": report.added,
            "sum_usd": format_nano(report.sum_nano),
            "cost_usd": dg.MetadataValue.float(
                report.sum_nano / 1_000_000_000
            ),  # for the plot; the sum is exact
            "events_without_price": report.unknown,
            "open_calls_left": report.waiting,
            "spool_files_removed": len(report.removed),
            "file": report.file,
            "digest": f"sha256:{report.sha256}",
        },
        check_results=[check],
    )
