"""The usage of a day, or of a month, as a file for other tools: CSV, Parquet, FOCUS 1.2.

The files lie in `<home>/exports/<format>/day=YYYY-MM-DD/`, each with a statement signed by the project's
key beside it: `maestro verify FILE.sigstore.json` checks both. Where the setting `export_webhook` names a
URL, it is told of each export.
"""

from typing import Any

import dagster as dg

from maestro_dagster.manifest.money import format_nano
from maestro_dagster.project.export import STATEMENT_SUFFIX, PartitionExport, export_partition
from maestro_dagster.translate.resource import LakeResource, SignerResource

FIRST_DAY = "2026-01-01"
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
MONTHS = dg.MonthlyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
CHECK = "export_equals_usage"


def build_export(name: str, form: str, partitions: Any, what: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        partitions_def=partitions,
        deps=["usage_daily"],
        group_name="costs",
        kinds={"csv" if form.endswith("csv") else "parquet"},
        description=f"{what}, with a signed statement of its period, rows, sum and digest.",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=name,
                blocking=True,
                description="The file read again adds up to what the lake says of these days, difference 0.",
            )
        ],
    )
    def export(
        context: dg.AssetExecutionContext, lake: LakeResource, signer: SignerResource
    ) -> dg.MaterializeResult:
        partition = context.partition_key  # of a month: its first day
        done = export_partition(
            lake.open(),
            lake.open_runtime().home,
            form,
            partition,
            signer.open(),
            monthly=partitions is MONTHS,
        )
        return dg.MaterializeResult(metadata=describe(done, lake), check_results=[check(done)])

    return export


def describe(done: PartitionExport, lake: LakeResource) -> dict[str, Any]:
    """The path is relative to the project's home, the same on every machine; the statement lies beside it."""
    statement = done.export.statement
    return {
        "dagster/row_count": statement.rows,
        "events": statement.events,
        "sum_usd": format_nano(statement.sum_nano),
        "cost_usd": dg.MetadataValue.float(statement.sum_nano / 1_000_000_000),  # for the plot
        "events_without_price": statement.unknown,
        "digest": statement.digest,
        "path": done.export.path.relative_to(lake.open_runtime().home).as_posix(),
        "signed_statement": f"{done.export.path.name}{STATEMENT_SUFFIX}",
        "statement": dg.MetadataValue.json(statement.to_json()),
        "webhook": done.told,
    }


def check(done: PartitionExport) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=done.balanced,
        metadata={
            "lake_usd": format_nano(done.lake_nano),
            "file_usd": format_nano(done.file_nano),
            "lake_events_without_price": done.lake_unknown,
        },
    )


usage_export_csv = build_export("usage_export_csv", "csv", DAYS, "Usage events of a day as CSV")
usage_export_parquet = build_export(
    "usage_export_parquet", "parquet", DAYS, "Usage events of a day as Parquet"
)
usage_export_focus = build_export("usage_export_focus", "focus", DAYS, "A day in FOCUS 1.2 (Parquet)")
usage_export_focus_month = build_export(
    "usage_export_focus_month", "focus", MONTHS, "A month in FOCUS 1.2 (Parquet)"
)
