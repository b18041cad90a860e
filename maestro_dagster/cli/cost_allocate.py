"""`maestro cost allocate`: shared cost of a month, divided by what everybody used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maestro_dagster.costs.allocate import SharedRow
    from maestro_dagster.costs.weight import Weights


@click.command(
    epilog="""\b
Example:
  maestro cost allocate --month 2026-01
  maestro cost allocate --month 2026-01 --json
"""
)
@click.option(
    "--month", required=True, metavar="YYYY-MM", help="The month whose shared cost is divided (UTC)."
)
@json_option
def command(month: str, as_json: bool) -> None:
    """Divide the shared cost of a month, as resources/shared.yaml says, among those that used something.

    The parts of a line add up to its amount exactly. What the key cannot divide is shown as unallocated.
    """
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.shared import divide_shared

    rows, weights = divide_shared(find_project(), month)
    value = _value(month, rows, weights)
    if as_json:
        emit(value, as_json=True)
        return
    if not rows:
        click.echo(f"resources/shared.yaml has no line for {month}")
        return
    print_table(
        ("line", "key", "member", "part of the key", "usd"),
        [
            (line["line"], line["key"], row["member"], f"{row['weight']} of {line['whole']}", row["usd"])
            for line in value["lines"]
            for row in line["rows"]
        ],
    )
    click.echo(f"total {value['total_usd']} USD, of it unallocated {value['unallocated_usd']} USD")
    if value["open"]:
        click.echo(f"{month} is not over: the parts still move")
    if value["unknown_events"] and any(line["key"] == "cost" for line in value["lines"]):
        click.echo(f"{value['unknown_events']} events have no price: they weigh nothing in the key `cost`")


def _value(month: str, rows: Sequence[SharedRow], weights: Weights) -> dict[str, Any]:
    from maestro_dagster.manifest.money import format_nano

    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(
            row.line,
            {"line": row.line, "key": row.key, "over": row.over, "whole": row.whole, "nano": 0, "rows": []},
        )
        line["nano"] += row.nano
        tenant, project, flow = row.names
        line["rows"].append(
            {
                "member": row.member,
                "tenant": tenant,
                "project": project,
                "flow": flow,
                "weight": row.weight,
                "usd": format_nano(row.nano),
            }
        )
    for line in lines.values():
        line["usd"] = format_nano(line.pop("nano"))
    return {
        "month": month,
        "open": month >= f"{datetime.now(UTC):%Y-%m}",
        "total_usd": format_nano(sum(row.nano for row in rows)),
        "unallocated_usd": format_nano(sum(row.nano for row in rows if not row.allocated)),
        "unknown_events": weights.unknown,
        "lines": list(lines.values()),
    }
