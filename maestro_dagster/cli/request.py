"""From what was typed to a request for a run."""

from __future__ import annotations

import base64
import getpass
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.model import Flow, Param
    from maestro_dagster.project.root import Project

ACTOR_VARIABLE: Final = "MAESTRO_ACTOR"


@dataclass(frozen=True, slots=True)
class Typed:
    """Arguments that `plan` and `run` share."""

    flow: str
    params: tuple[str, ...] = ()
    budget: str | None = None
    region: str | None = None
    person: str | None = None


def read_project_flow(project: Project, text: str) -> Flow:
    """The flow behind a path or a name. Raises ManifestError, ProjectError (`flow-missing`)."""
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.steps.catalogue import load_catalogue

    return read_flow(project.find_flow(text), load_catalogue())


def make_request(project: Project, typed: Typed, run_id: str | None = None) -> RunRequest:
    from maestro_dagster.engine.interface import RunRequest

    for text in (typed.region or "", typed.budget or "", typed.person or ""):
        _check_text(text)
    flow = read_project_flow(project, typed.flow)
    return RunRequest(
        run_id=run_id or new_run_id(),
        flow=flow,
        params=parse_params(flow, typed.params),
        cause="manual",
        actor=actor_name(typed.person),
        budget_nano=_read_budget(typed.budget),
        region=typed.region,
    )


def _read_budget(text: str | None) -> int | None:
    """Nano-dollars. Raises UsageError: what was typed wrongly is a wrong call, not a wrong flow."""
    from maestro_dagster.errors import ManifestError
    from maestro_dagster.manifest.money import parse_budget

    if text is None:
        return None
    try:
        return parse_budget(text)
    except ManifestError as error:
        raise UsageError(error.fact, place="--budget", remedy=error.remedy, code=error.error_code) from None


def _check_text(text: str) -> None:
    """Bytes that are no UTF-8 reach Python as lone surrogates, which no journal or evidence can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text[:80]!r} is not UTF-8 text", remedy="write it in UTF-8") from None


def new_run_id() -> str:
    """`r` and 25 characters of base32, as runs from pushes have."""
    return f"r{base64.b32encode(os.urandom(16)).decode().lower()[:25]}"


def person_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--as`, or MAESTRO_ACTOR: who is behind a login that many share."""
    return click.option(
        "--as",
        "person",
        metavar="PERSON",
        envvar=ACTOR_VARIABLE,
        help=f"Who asks, if not the login name; also {ACTOR_VARIABLE}. Usage and evidence get a surrogate.",
    )(command)


def actor_name(person: str | None = None) -> str:
    """Who asks: whoever is named, else the login name. A container may know no name for its user.

    Raises UsageError when somebody is to be named and is not.
    """
    if person is not None:
        _check_text(person)
        if not person.strip() or not person.isprintable():
            raise UsageError("--as names nobody", place="--as", remedy="give a name or an e-mail address")
        return person.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def parse_params(flow: Flow, given: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as the flow's types want them. Raises UsageError."""
    values: dict[str, Any] = {}
    for text in given:
        _check_text(text)
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} is no parameter", remedy="write it as -p name=value")
        if name not in flow.params:
            known = ", ".join(flow.params) or "none"
            raise UsageError(
                f"the flow {flow.name} has no parameter {name!r}", remedy=f"its parameters are: {known}"
            )
        if name in values:
            raise UsageError(f"the parameter {name!r} is given twice", remedy="give it once")
        values[name] = _typed(name, flow.params[name], value)
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _typed(name: str, param: Param, text: str) -> Any:
    if param.type == "string":
        return text
    checks = {
        "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": lambda value: isinstance(value, bool),
        "array": lambda value: isinstance(value, list),
        "object": lambda value: isinstance(value, dict),
    }
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # `"\\ud800"` is a lone surrogate as well
    except (ValueError, RecursionError):
        value = None
    if not checks[param.type](value):
        raise UsageError(
            f"{text[:80]!r} is no {param.type}, which the parameter {name!r} is", remedy="write it as JSON"
        )
    return value
