"""`maestro flow`: lint, show, digest, convert and draw a flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import MaestroError, UsageError

if TYPE_CHECKING:
    from maestro_dagster.manifest.diagnostic import Diagnostic
    from maestro_dagster.manifest.interface import KindCatalogue
    from maestro_dagster.manifest.model import Flow
    from maestro_dagster.manifest.read import ReadResult

STDIN = "-"
_file = click.argument("file", metavar="FILE")


@click.group()
def command() -> None:
    r"""Lint, show, digest, convert or draw a flow. FILE may be `-` for standard input.

    \b
    Example:
      maestro flow lint flow.yaml
    """


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
@click.pass_context
def lint(ctx: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    r"""Say what is wrong with flows, with line, column and remedy. Exit 1 when there is an error.

    \b
    Example:
      maestro flow lint assets/*.yaml --json
    """
    from maestro_dagster.manifest.diagnostic import has_errors

    catalogue = _catalogue()
    found = [each for file in files for each in _lint(file, catalogue).diagnostics]
    emit({"diagnostics": [each.to_json() for each in found]}, as_json, lambda: _report(found, len(files)))
    ctx.exit(1 if has_errors(found) else 0)


def _report(found: list[Diagnostic], files: int) -> str:
    errors = sum(each.severity == "error" for each in found)
    tail = f"{files} file{'s' * (files != 1)}: {errors} errors, {len(found) - errors} warnings"
    return "\n".join([*(_printable(str(each)) for each in found), tail])


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


@command.command()
@_file
@json_option
def show(file: str, as_json: bool) -> None:
    r"""Print a flow as a table, or its normal form as JSON.

    \b
    Example:
      maestro flow show flow.yaml --json
    """
    flow = _read(file)
    if as_json:
        from maestro_dagster.manifest.normal import normal_form

        emit(normal_form(flow), as_json=True)
        return
    _show(flow)


def _show(flow: Flow) -> None:
    from maestro_dagster.manifest.draw import short_kind
    from maestro_dagster.manifest.normal import flow_digest

    about: dict[str, Any] = {
        "digest": flow_digest(flow),
        "starts on": ", ".join(dict.fromkeys(trigger.event for trigger in flow.on)) or "request only",
        "params": ", ".join(flow.params),
        "region": flow.region,
        "license": flow.license_class,
        "retention": flow.retention_tier,
        "budget": f"{flow.budget.usd} USD" if flow.budget and flow.budget.usd else None,
    }
    click.echo(f"{flow.name} {flow.version}")
    for name, value in about.items():
        if value:
            click.echo(f"  {name + ':':<11}{_printable(str(value))}")
    rows = [(task.id, short_kind(task), ", ".join(task.needs) or None, task.if_) for task in flow.tasks]
    click.echo()
    print_table(("step", "kind", "needs", "if"), rows)


@command.command()
@_file
@json_option
def digest(file: str, as_json: bool) -> None:
    r"""Print the digest of a flow's normal form: the same in every dialect.

    \b
    Example:
      maestro flow digest flow.yaml
    """
    from maestro_dagster.manifest.normal import flow_digest

    value = flow_digest(_read(file))
    emit({"digest": value}, as_json, value)


@command.command()
@_file
@click.option("--to", "dialect", type=click.Choice(["tasks", "steps", "nodes"]), required=True)
@click.option("--json", "as_json", is_flag=True, help="Write JSON (`nodes` always is).")
def convert(file: str, dialect: Any, as_json: bool) -> None:
    r"""Write a flow in another dialect to standard output; its digest stays the same.

    \b
    Example:
      maestro flow convert flow.yaml --to nodes > flow.json
    """
    from maestro_dagster.manifest.write import write_flow

    click.echo(write_flow(_read(file), dialect, as_json=True if as_json else None), nl=False)


@command.command()
@_file
@click.option("--svg", is_flag=True, help="A picture.")
@click.option("--dot", is_flag=True, help="A Graphviz digraph.")
@click.option("--mermaid", is_flag=True, help="A Mermaid flowchart (default).")
@json_option
def graph(file: str, svg: bool, dot: bool, mermaid: bool, as_json: bool) -> None:
    r"""Draw a flow's graph.

    \b
    Example:
      maestro flow graph flow.yaml --svg > flow.svg
    """
    from maestro_dagster.manifest import draw

    if svg + dot + mermaid + as_json > 1:
        raise UsageError("a graph is drawn in one form", remedy="give one of --svg, --dot, --mermaid, --json")
    flow = _read(file)
    if as_json:
        edges = [{"from": need, "to": task.id} for task in flow.tasks for need in task.needs]
        nodes = [{"id": task.id, "uses": task.uses} for task in flow.tasks]
        emit({"nodes": nodes, "edges": edges}, as_json=True)
        return
    drawer = draw.draw_svg if svg else draw.draw_dot if dot else draw.draw_mermaid
    click.echo(drawer(flow), nl=False)


def _lint(file: str, catalogue: KindCatalogue | None) -> ReadResult:
    from maestro_dagster.manifest import read

    if file == STDIN:
        return read.read_flow_text(read.read_stdin(), "<stdin>", catalogue)
    return read.lint_file(Path(file), catalogue)


def _read(file: str) -> Flow:
    """The flow of a file whose kinds need not be installed. Warnings go to standard error."""
    from maestro_dagster.manifest.diagnostic import refusal

    result = _lint(file, None)
    if result.flow is None:
        raise refusal(result.diagnostics)
    for each in result.diagnostics:
        click.echo(_printable(str(each)), err=True)
    return result.flow


def _catalogue() -> KindCatalogue | None:
    from maestro_dagster.steps.catalogue import load_catalogue

    try:
        return load_catalogue()
    except MaestroError:
        return None
