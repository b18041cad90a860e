"""`maestro cost explain`: what an artifact cost with all that it was made of, or where a run's money went."""

from __future__ import annotations

import re
from typing import Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import CostError

_DIGEST = re.compile(r"sha256:[0-9a-f]*|[0-9a-f]{12,64}")


@click.command(
    epilog="""\b
Example:
  maestro cost explain sha256:6dcd4ce23d88
  maestro cost explain RUN
  maestro cost explain RUN/STEP --json
"""
)
@click.argument("subject", metavar="ARTIFACT|RUN[/STEP]")
@click.option(
    "--top", type=click.IntRange(min=0), default=20, show_default=True, help="Dearest parts shown; 0: all."
)
@json_option
def command(subject: str, top: int, as_json: bool) -> None:
    """Explain what an artifact cost with all that it was made of, or what a run's money went into.

    ARTIFACT is a digest or its first 12 digits. What several parts were made of is counted once; what was
    taken over from another run counts at what it cost there. What is unknown is said, never counted as 0.
    """
    value = _explain(subject, top)
    if as_json:
        emit(value, as_json=True)
    elif value["kind"] == "run":
        _show_run(value)
    else:
        _show_artifact(value)


def _explain(subject: str, top: int) -> dict[str, Any]:
    from maestro_dagster.costs.ancestry import Ancestry
    from maestro_dagster.costs.explain import explain_artifact, explain_run, explain_step
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    project = find_project()
    ancestry = Ancestry(open_spool(project).lineage, open_lake(project.lake))
    run_id, _, step = subject.partition("/")
    if step:
        return explain_step(ancestry, run_id, step, top=top)
    if _DIGEST.fullmatch(subject):
        try:
            return explain_artifact(ancestry, subject, top=top)
        except CostError as error:
            if error.error_code != "artifact-unknown" or subject.startswith("sha256:"):
                raise  # else it may be the id of a run
            if not ancestry.find_runs({subject: set()}):
                raise
    return explain_run(ancestry, run_id, top=top)


def _show_artifact(value: dict[str, Any]) -> None:
    name = f"{value['run_id']}/{value['step']}"
    click.echo(f"{value['digest'] or 'nothing was made'}  {name}  {value['finished_at']}")
    _show_sum("own", value["own"])
    _show_sum("inputs", value["inputs"])
    _show_sum("total", value["total"])
    lineage = value["lineage"]
    click.echo(
        f"made in {lineage['records']} steps of {lineage['runs']} runs, {lineage['depth']} deep;"
        " what is shared is counted once"
    )
    _show_notes(value)
    for other in value.get("other_makings", ()):
        click.echo(f"made too by {other['run_id']}/{other['step']} at {other['finished_at']}")
    if value.get("reuse", {}).get("runs"):
        reuse = value["reuse"]
        click.echo(f"taken over by {reuse['runs']} runs, which saved {_saved(reuse)}")
    if value["direct_inputs"]:
        print_table(
            ["input", "own usd", "with inputs usd"],
            [
                (_place(each, value), _usd(each["own"]), _usd(each["with_inputs"]))
                for each in value["direct_inputs"]
            ],
        )
    print_table(
        ["depth", "made of", "own usd", "failed usd", "retry usd", "without price", "status"],
        [
            (
                each["depth"], _place(each, value), _usd(each), each["failed_usd"], each["retry_usd"],
                each["unknown_events"] or None, each["status"],
            )
            for each in value["made_of"]
        ],
    )  # fmt: skip
    left = value["lineage"]["records"] - len(value["made_of"])
    if left:
        click.echo(f"{left} cheaper parts are not shown, see --top")


def _show_run(value: dict[str, Any]) -> None:
    click.echo(f"{value['run_id']}  {value['flow']}  {value['finished_at']}")
    _show_sum("total", value["total"])
    _show_notes(value)
    print_table(
        ["step", "status", "attempts", "usd", "failed usd", "retry usd", "no price", "saved usd", "artifact"],
        [
            (
                each["step"], each["status"], each["attempts"], _usd(each), each["failed_usd"],
                each["retry_usd"], each["unknown_events"] or None,
                each["saved_usd"] or "unknown" if each["status"] == "reused" else None,
                each["digest"][:19] if each["digest"] else None,
            )
            for each in value["steps"]
        ],
    )  # fmt: skip


def _show_sum(name: str, amount: dict[str, Any]) -> None:
    line = f"{name:<7} {_usd(amount)} USD"
    if amount["unknown_events"]:
        line += f" and {amount['unknown_events']} events whose price is unknown"
    click.echo(f"{line}; failed {amount['failed_usd']}, retries {amount['retry_usd']}")


def _show_notes(value: dict[str, Any]) -> None:
    if value["saved"]["reused"]:
        click.echo(f"{value['saved']['reused']} steps were taken over, which saved {_saved(value['saved'])}")
    for name in value["missing"]:
        click.echo(f"no price: {name}")
    for each in value.get("without_record", ()):
        what = each["digest"] or f"{each['run_id']}/{each['step']}"
        reader = each["read_by"]
        click.echo(f"no record, so not counted: {what}, read by {reader['run_id']}/{reader['step']}")


def _usd(amount: dict[str, Any]) -> str:
    """What is known; `unknown` when nothing is: an unknown price is not 0."""
    if amount["unknown_events"] and not set(amount["known_usd"]) - {"0", "."}:
        return "unknown"
    return str(amount["known_usd"])


def _saved(amount: dict[str, Any]) -> str:
    more = f" and what {amount['unknown']} cost nobody knows" if amount["unknown"] else ""
    return f"{amount['saved_usd']} USD{more}"


def _place(each: dict[str, Any], value: dict[str, Any]) -> str:
    step = each["step"] if each["iteration"] is None else f"{each['step']}[{each['iteration']}]"
    return step if each["run_id"] == value["run_id"] else f"{each['run_id']}/{step}"
