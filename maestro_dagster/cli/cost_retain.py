"""`maestro cost retain`: removes usage that is older than its tier allows, and proves what it removed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, on_terminal, print_table
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.retention import RetentionReport


@click.command(
    epilog="""\b
Example:
  maestro cost retain --dry-run
  maestro cost retain --json
  maestro cost retain --verify
"""
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--verify", is_flag=True, help="Check the proofs of all removals instead.")
@json_option
def command(dry_run: bool, verify: bool, as_json: bool) -> None:
    """Remove usage that is older than its retention tier allows, and prove what was removed.

    Rows go 7, 30, 365 or 1825 days after their day. Legal holds stand in flows and in
    resources/retention.yaml. Sums stay in the cubes; the proofs stand in removals.ndjson of the home.
    """
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.project.removal import retain_project_usage, verify_removals
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    if dry_run and verify:
        raise click.UsageError("--dry-run and --verify exclude each other")
    project = find_project()
    if verify:
        _show_proofs(verify_removals(project), as_json)
        return
    tell = (lambda line: click.echo(line, err=True)) if on_terminal(sys.stderr) else (lambda _: None)
    report = retain_project_usage(
        project, open_lake(project.lake), open_spool(project), dry_run=dry_run, say=tell
    )
    if as_json:
        emit(report.to_json(), as_json=True)
        return
    _show(report)


def _show_proofs(found: dict[str, Any], as_json: bool) -> None:
    text = (
        f"ok: {found['lines']} proofs hold; {found['rows']} rows removed, {found['forgotten']} people "
        f"forgotten\nnewest: {found['newest'] or '-'}"
    )
    emit(found, as_json, text)


def _show(report: RetentionReport) -> None:
    if report.removals:
        print_table(
            ["day", "tier", "rows", "usd", "without price", "proof"],
            [
                (
                    one.day,
                    tier.tier,
                    tier.rows,
                    format_nano(tier.nano),
                    tier.unknown or None,
                    one.proof[:16] or None,
                )
                for one in report.removals
                for tier in one.tiers
            ],
        )
    rows = sum(one.rows for one in report.removals)
    verb = "would be removed" if report.dry_run else "removed"
    click.echo(f"{rows} rows of {len(report.removals)} days {verb}")
    if report.held:
        click.echo(f"{report.held} expired rows are under a legal hold")
    if report.waiting:
        click.echo(f"{report.waiting} expired rows wait until their runs are compacted")
    for proof in report.recovered:
        click.echo(f"a proof that an earlier job could not write was written: {proof[:16]}")
