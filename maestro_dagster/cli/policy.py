"""`maestro policy`: what the packs say of a flow, and the packs' own tests."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.argument import flow_argument
from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import ProjectError, UsageError
from maestro_dagster.manifest.suggest import did_you_mean

if TYPE_CHECKING:
    from maestro_dagster.engine.admission import Assessment
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.engine.services import Services
    from maestro_dagster.policy.interface import Verdict
    from maestro_dagster.policy.testing import PackTest
    from maestro_dagster.project.root import Project

# What admission tells the packs of a request: a pack that reads anything else would never see it in a run.
REQUEST_FIELDS = ("region", "actor", "cause", "partition", "tenant", "env")
EVAL_EPILOG = """\b
Exit codes:
  0  allowed
  3  denied

\b
Example:
  maestro policy eval assets/brief.yaml --request region=EU
"""
TEST_EPILOG = """\b
Exit codes:
  0  every test passed
  1  a test failed, or a pack has none

\b
Example:
  maestro policy test licence pii
"""


@click.group(name="policy", epilog=EVAL_EPILOG)
def command() -> None:
    """Evaluate or test the policy packs."""


@command.command(name="eval", epilog=EVAL_EPILOG)
@flow_argument("--template")
@click.option("--request", "facts", multiple=True, metavar="NAME=VALUE",
              help="What the request says: region, actor, cause, partition, tenant or env.")  # fmt: skip
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the flow.")
@click.option("--budget", metavar="USD", help="The most that the run may cost, such as 5usd.")
@json_option
def eval_command(
    flow: str, facts: tuple[str, ...], params: tuple[str, ...], budget: str | None, as_json: bool
) -> int:
    """Say what the policy packs have against FLOW.

    Outside a project the packs that come with Maestro are asked.
    """
    from maestro_dagster.engine.admission import assess

    given = _read_facts(facts)
    with _open_project() as project:
        request = _make_request(project, flow, params, budget, given.get("region"))
        services = _open_services(project, given)
        try:
            found = assess(services, request)
        finally:
            services.policy.close()
    form = _form(found)
    emit(form, as_json, text=lambda: _show(form))
    return 0 if form["allow"] else 3


@command.command(name="test", epilog=TEST_EPILOG)
@click.argument("packs", nargs=-1, metavar="[PACK...]")
@json_option
def test_command(packs: tuple[str, ...], as_json: bool) -> int:
    """Run the tests of the packs, of all when none is named. A pack without tests fails."""
    from maestro_dagster.policy.testing import run_pack_tests

    with _open_project() as project:
        tests = run_pack_tests(project.policies, packs)
    failed = [test for test in tests if not test.passed]
    if as_json:
        emit({"passed": len(tests) - len(failed), "failed": len(failed),
              "tests": [test.to_json() for test in tests]}, as_json=True)  # fmt: skip
    else:
        _show_tests(tests, failed)
    return 1 if failed else 0


@contextlib.contextmanager
def _open_project() -> Iterator[Project]:
    """The project here, or outside of any the shipped folders with a state that is thrown away."""
    from maestro_dagster.project.root import Project, find_project
    from maestro_dagster.project.scaffold import shipped_project
    from maestro_dagster.project.settings import read_settings

    try:
        yield find_project()
    except ProjectError as error:
        if error.error_code != "project-missing":
            raise
        with tempfile.TemporaryDirectory(prefix="maestro-policy-") as home:
            yield Project(shipped_project(), read_settings({}, os.environ, "environment"), Path(home))


def _make_request(
    project: Project, flow: str, params: tuple[str, ...], budget: str | None, region: str | None
) -> RunRequest:
    from maestro_dagster.cli.request import actor_name, parse_params
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.money import parse_budget
    from maestro_dagster.manifest.normal import flow_from_normal, normal_form
    from maestro_dagster.manifest.read import read_flow

    # Without the catalogue of kinds: the packs have an answer to kinds that are not installed, too.
    found = flow_from_normal(normal_form(read_flow(project.find_flow(flow))))
    return RunRequest(
        run_id="policy",
        flow=found,
        params=parse_params(found, params),
        actor=actor_name(),
        budget_nano=parse_budget(budget) if budget else None,
        region=region,
    )


def _open_services(project: Project, given: Mapping[str, str]) -> Services:
    from maestro_dagster.policy.document import build_document
    from maestro_dagster.project.services import open_services

    def document(flow: Any, *, request: Mapping[str, Any], **rest: Any) -> Mapping[str, Any]:
        return build_document(flow, request={**request, **given}, **rest)

    return replace(open_services(project), policy_document=document)


def _read_facts(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} says nothing of the request", remedy="write --request region=EU")
        if name not in REQUEST_FIELDS:
            raise UsageError(
                f"a request says nothing of {name!r}",
                remedy=did_you_mean(name, REQUEST_FIELDS, otherwise=f"it says: {', '.join(REQUEST_FIELDS)}"),
            )
        if name in found:
            raise UsageError(f"{name!r} is given twice", remedy="give it once")
        found[name] = value
    return found


def _form(found: Assessment) -> dict[str, Any]:
    """Only what the packs say decides; what admission itself would refuse is a warning here."""
    from maestro_dagster.engine.admission import PACK

    packs = [verdict for verdict in found.decision.verdicts if verdict.pack != PACK]
    return {
        "allow": bool(packs) and all(verdict.allow for verdict in packs),
        "violations": [violation.to_json() for verdict in packs for violation in verdict.violations],
        "warnings": [*_warnings(packs), *_obstacles(found, PACK)],
        "engine": found.decision.engine,
        "packs": [
            {"pack": verdict.pack, "digest": verdict.digest, "allow": verdict.allow} for verdict in packs
        ],
    }


def _warnings(packs: list[Verdict]) -> Iterator[str]:
    for verdict in packs:
        for warning in verdict.warnings:
            yield f"{verdict.pack}: {warning}"


def _obstacles(found: Assessment, own: str) -> Iterator[str]:
    for verdict in found.decision.verdicts:
        for violation in verdict.violations if verdict.pack == own else ():
            place = f" ({violation.step})" if violation.step else ""
            yield f"a run would be refused{place}: {violation.message}"


def _show(form: dict[str, Any]) -> str:
    lines = [f"{'allowed' if form['allow'] else 'DENIED'} ({form['engine']})"]
    for violation in form["violations"]:
        step = f", step {violation['step']}" if violation["step"] else ""
        path = f" at {violation['path']}" if violation["path"] else ""
        lines.append(f"  {violation['rule']} (pack {violation['pack']}{step}): {violation['message']}{path}")
        lines.append(f"    remedy: {violation['remedy']}")
    lines += [f"  warning: {warning}" for warning in form["warnings"]]
    return "\n".join(lines)


def _show_tests(tests: tuple[PackTest, ...], failed: list[PackTest]) -> None:
    counts: dict[str, list[int]] = {}
    for test in tests:
        row = counts.setdefault(test.pack, [0, 0])
        row[0 if test.passed else 1] += 1
    print_table(["pack", "passed", "failed"], [[pack, *row] for pack, row in counts.items()])
    for test in failed:
        click.echo(f"FAILED {test.file}: {test.name}" + (f": {test.problem}" if test.problem else ""))
