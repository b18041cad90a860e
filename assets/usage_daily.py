"""The usage of a day, from the spool into Parquet: who used what in which step, and what it cost.

Any tool may read the files; `maestro cost report` and `maestro cost export` do. Materialise a day again
whenever late usage came in: it is rebuilt, and each event counts once. A day whose checks fail is not
published: it goes into quarantine, and what was published of it before stays.
"""

from collections.abc import Iterator

import dagster as dg

from maestro_dagster.costs.check import CHECKS, FACT_COLUMNS
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.project.compaction import commit_iceberg
from maestro_dagster.project.usage_check import open_usage_check
from maestro_dagster.translate.resource import LakeResource

FIRST_DAY = "2026-01-01"


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1),
    group_name="costs",
    kinds={"polars", "parquet"},
    description="Usage events of a day, each once, with their cost to the nano-dollar.",
    check_specs=[
        *(
            dg.AssetCheckSpec(name, asset="usage_daily", blocking=True, description=text)
            for name, text in CHECKS.items()
        ),
        dg.AssetCheckSpec(
            "spool_equals_lake",
            asset="usage_daily",
            blocking=True,
            description="The day's events cost the same in the spool and in the lake, difference exactly 0.",
        ),
    ],
)
def usage_daily(
    context: dg.AssetExecutionContext, lake: LakeResource
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    day = context.partition_key
    report = lake.compact(day, open_usage_check(lake.open(), lake.project))
    for outcome in report.outcomes:
        yield dg.AssetCheckResult(
            check_name=outcome.name,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity(outcome.severity.upper()),
            description=outcome.message,
            metadata={"day": day, "rules": len(outcome.facts), "facts": _table(outcome.shown())},
        )
    if report.quarantined:
        wrong = ", ".join(outcome.name for outcome in report.outcomes if outcome.blocks)
        raise dg.Failure(f"{day} is in quarantine, nothing was published: {wrong}", allow_retries=False)
    yield dg.AssetCheckResult(
        check_name="spool_equals_lake",
        passed=report.balanced,
        metadata={
            "day": day,
            "spool_usd": format_nano(report.spool_sum_nano),
            "lake_usd": format_nano(report.lake_sum_nano),
        },
    )
    commit_iceberg(lake.open(), lake.project)  # nothing unless the setting `iceberg` wants it
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.rows,
            "day": day,
            "rows_added": report.added,
            "sum_usd": format_nano(report.sum_nano),
            "cost_usd": dg.MetadataValue.float(
                report.sum_nano / 1_000_000_000
            ),  # for the plot; the sum is exact
            "events_without_price": report.unknown,
            "open_calls_left": report.waiting,
            "spool_files_removed": len(report.removed),
            "published": report.published,  # a day without usage is not
            "file": report.file or "none",
            "digest": f"sha256:{report.sha256}" if report.sha256 else "none",
        }
    )


def _table(facts: list[dict[str, str]]) -> dg.TableMetadataValue:
    columns = dg.TableSchema([dg.TableColumn(name, "string") for name in FACT_COLUMNS])
    return dg.MetadataValue.table([dg.TableRecord(fact) for fact in facts], columns)
