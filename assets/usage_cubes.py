"""The usage of a day added up by tenant, by model, and by flow and step: what reports and plots read.

A cube is never needed for a right answer: days whose cubes are old are added up from the usage itself.
"""

import dagster as dg

from maestro_dagster.costs.artifact import compact_lineage
from maestro_dagster.costs.cube import build_cubes
from maestro_dagster.costs.plot import draw_bars, embed_svg
from maestro_dagster.costs.question import answer
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource

FIRST_DAY = "2026-01-01"  # of the partitions of `usage_daily`


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1),
    deps=["usage_daily"],
    group_name="costs",
    kinds={"polars", "parquet"},
    description="A day's usage by tenant, by model, and by flow and step.",
    check_specs=[
        dg.AssetCheckSpec(
            "usage_equals_cubes",
            asset="usage_cubes",
            blocking=True,
            description="Usage, retired usage too, and each cube cost the same, difference exactly 0.",
        )
    ],
)
def usage_cubes(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    day = context.partition_key
    report = build_cubes(lake.open(), day)
    lineage = compact_lineage(lake.spool().lineage, lake.open(), day, lake.has_ended)
    models = answer(
        lake.open(), None, lambda costs: costs.group("model", since=day, limit=25), since=day, until=day
    )
    bars = [(" ".join(model.name), model.nano) for model in models]
    check = dg.AssetCheckResult(
        check_name="usage_equals_cubes",
        passed=report.balanced,
        metadata={
            "day": day,
            "usage_usd": format_nano(report.sum_nano),
            **{f"{cube.name}_usd": format_nano(cube.sum_nano) for cube in report.cubes},
        },
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(cube.rows for cube in report.cubes),
            "day": day,
            "events": report.events,
            "events_retired": report.retired_events,
            "events_without_price": report.unknown,
            "sum_usd": format_nano(report.sum_nano),
            "cost_usd": dg.MetadataValue.float(report.sum_nano / 1e9),  # for the plot; the sum is exact
            **{f"{cube.name}_rows": cube.rows for cube in report.cubes},
            "cube_artifact_rows": lineage.rows,  # of runs that have ended: `maestro cost explain`
            "rebuilt": sum(cube.rebuilt for cube in report.cubes),
            "made_of": f"sha256:{report.source}" if report.source else "nothing: no usage is published",
            "models": dg.MetadataValue.md(
                embed_svg("cost by model", draw_bars(bars, title=f"Models on {day}", unknown=report.unknown))
            ),
        },
        check_results=[check],
    )
