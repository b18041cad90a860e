"""Usage that is older than its retention tier allows is removed every day, and each removal is proven.

A row goes 7, 30, 365 or 1825 days after its day, as its flow's tier said. Legal holds stand in flows and in
`resources/retention.yaml`. Cubes keep their sums. `maestro cost retain --verify` checks the proofs.
"""

from pathlib import Path

import dagster as dg

from maestro_dagster.manifest.money import format_nano
from maestro_dagster.project.removal import retain_project_usage
from maestro_dagster.project.root import find_project
from maestro_dagster.translate.resource import LakeResource

MOST_ROWS = 50  # of the table: it goes into an event of the event log


@dg.asset(
    deps=["usage_daily"],
    group_name="costs",
    kinds={"parquet"},
    description="What was removed from the usage lake because its time was over, with the proofs.",
)
def usage_retention(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    project = find_project(None if lake.project is None else Path(lake.project))
    report = retain_project_usage(
        project, lake.open(), lake.spool(), run=context.run.run_id, say=context.log.info
    )
    lines = [
        "| day | tier | rows | USD | without price | file after | proof |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.day} | {tier.tier} | {tier.rows} | {format_nano(tier.nano)} | {tier.unknown} "
        f"| {one.after[:12]} | {one.proof[:12]} |"
        for one in report.removals[:MOST_ROWS]
        for tier in one.tiers
    ]
    left = len(report.removals) - MOST_ROWS
    more = f"\n\n{left} more days stand in the journal of removals" if left > 0 else ""
    removed = sum(one.nano for one in report.removals)
    return dg.MaterializeResult(
        metadata={
            "rows_removed": sum(one.rows for one in report.removals),
            "days_rewritten": len(report.removals),
            "days_looked_at": report.days,
            "usd_removed": format_nano(removed),
            "cost_usd": dg.MetadataValue.float(removed / 1_000_000_000),  # for the plot; the sum is exact
            "rows_under_legal_hold": report.held,
            "rows_waiting_for_the_spool": report.waiting,
            "removed": dg.MetadataValue.md("\n".join(lines) + more if report.removals else "nothing"),
            "policy": report.policy,
            "newest_proof": report.removals[-1].proof if report.removals else "none",
        }
    )
