"""`maestro cost prices`: what has which price, what has none, and new prices for models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.cost_period import day_option
from maestro_dagster.cli.output import emit, json_option, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = ("input", "cached", "cache_write", "output", "reasoning")
_MOST_NAMES = 20  # of each list that a person is shown; --json has them all
_MOST_CHANGES = 200


@click.group(
    epilog="""\b
Example:
  maestro cost prices list
  maestro cost prices refresh --dry-run
"""
)
def command() -> None:
    """Show, check and refresh the prices that usage is charged at."""


@command.command(
    name="list",
    epilog="""\b
Example:
  maestro cost prices list
  maestro cost prices list 'gpt-4o*' --day 2026-03-01
""",
)
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@day_option("--day", "The day whose prices are shown; today by default")
@json_option
def list_(models: tuple[str, ...], day: str | None, as_json: bool) -> None:
    """List the prices of a day: all rates, and the models of the catalogue or those that fit MODEL (* and ?).

    Rates are USD for the unit, models USD for a million tokens. What is unknown is shown as unknown.
    """
    from maestro_dagster.project.price import list_prices
    from maestro_dagster.project.root import find_project

    value = list_prices(find_project(), day or _today(), models)
    if as_json:
        emit(value, as_json=True)
        return
    rates = [(row["unit"], row["usd"] or "unknown", row["price"]) for row in value["rates"]]
    print_table(("unit", "usd", "price"), rates)
    click.echo()
    print_table(("model", "provider", *_KINDS, "price"), [_model_row(row) for row in value["models"]])


@command.command(
    name="check",
    epilog="""\b
Example:
  maestro cost prices check
""",
)
@json_option
def check(as_json: bool) -> int:
    """Check that everything that can be used has a price; exit 1 when something has none."""
    from maestro_dagster.project.price import check_prices
    from maestro_dagster.project.root import find_project

    findings = list(check_prices(find_project(), _today()))
    wrong = any(finding.status == "error" for finding in findings)
    if as_json:
        emit({"ok": not wrong, "checks": [finding.to_json() for finding in findings]}, as_json=True)
    else:
        rows = [(finding.check, finding.status, finding.fact, finding.remedy or None) for finding in findings]
        print_table(("check", "status", "found", "remedy"), rows)
    return int(wrong)


@command.command(
    name="refresh",
    epilog="""\b
Example:
  maestro cost prices refresh --dry-run
  maestro cost prices refresh --from prices.json --day 2026-12-01
""",
)
@click.option(
    "--from", "source", metavar="FILE|URL", help="A list in LiteLLM's form; litellm's own by default."
)
@day_option("--day", "The day from which the prices hold; today by default")
@click.option("--dry-run", is_flag=True, help="Show what would change and write nothing.")
@json_option
def refresh(source: str | None, day: str | None, dry_run: bool, as_json: bool) -> None:
    """Write a dated snapshot of model prices beside the catalogue, and show what changed.

    A snapshot is never edited: days before it keep their prices. Where a model of the catalogue has a price
    of its own, that one counts. Nothing is written when no price has changed.
    """
    from maestro_dagster.project.price import fetch_list, plan_refresh, save_snapshot
    from maestro_dagster.project.root import find_project

    project = find_project()
    if source is not None and "://" in source:
        click.echo("fetching the price list", err=True)
    snapshot, value = plan_refresh(project, fetch_list(project, source), day or _today())
    changes = any(value[name] for name in ("added", "removed", "changed"))
    value["written"] = save_snapshot(project, snapshot) if changes and not dry_run else None
    if as_json:
        emit(value, as_json=True)
        return
    _show_changes(value)
    if value["written"]:
        click.echo(f"written: {value['written']}")
    else:
        click.echo("nothing was written" + ("" if changes else ": no price has changed"))


def _show_changes(value: dict[str, Any]) -> None:
    since = value["compared_with"]
    click.echo(
        f"{value['models']} models in {value['source']}, valid from {value['valid_from']}; compared with "
        + (f"the snapshot of {since}:" if since else "nothing, as this is the first snapshot:")
    )
    for name in ("added", "removed"):
        if names := value[name]:
            shown = ", ".join(names[:_MOST_NAMES])
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            click.echo(f"{name} {len(names)}: {shown}{more}")
    rows = [row for name, change in value["changed"].items() for row in _change_rows(name, change)]
    if rows:
        print_table(("model", "what", "old", "new"), rows[:_MOST_CHANGES])
    if len(rows) > _MOST_CHANGES:
        click.echo(f"and {len(rows) - _MOST_CHANGES} more changes: see --json")


def _change_rows(name: str, change: dict[str, Any]) -> Iterator[tuple[str | None, ...]]:
    old, new = _flatten(change["old"]), _flatten(change["new"])
    for what in sorted(old.keys() | new.keys()):
        if old.get(what) != new.get(what):
            yield name, what, old.get(what), new.get(what)


def _flatten(entry: dict[str, Any]) -> dict[str, str]:
    """What a snapshot says of a model, in one level: `{"input": "1", "input above 200000": "2"}`."""
    found = {"provider": str(entry.get("provider"))}
    price = dict(entry.get("price") or {})
    batch = price.pop("batch", None) or {}
    for suffix, part in (("", price), (" in a batch", batch)):
        for kind, usd in part.items():
            if kind != "above":
                found[f"{kind}{suffix}"] = str(usd)
        for tier in part.get("above", ()):
            for kind, usd in tier.items():
                if kind != "tokens":
                    found[f"{kind} above {tier['tokens']}{suffix}"] = str(usd)
    return found


def _model_row(row: dict[str, Any]) -> tuple[str | None, ...]:
    usd = row["usd_per_million"]
    if usd is None:
        shown: tuple[str | None, ...] = ("unknown", *(None for _ in _KINDS[1:]))
    elif usd == {"free": True}:
        shown = ("free", *(None for _ in _KINDS[1:]))
    else:
        shown = tuple(usd.get(kind) for kind in _KINDS)
    return row["name"], row["provider"], *shown, row["price"] + (" (tiers)" if usd and "above" in usd else "")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
