"""What one step is going to do, as far as that can be known before a run: its effects and its price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from maestro_dagster.engine.estimate import price_work
from maestro_dagster.engine.loop import MAP
from maestro_dagster.engine.services import Services
from maestro_dagster.errors import MaestroError
from maestro_dagster.manifest.expression import references, resolve
from maestro_dagster.manifest.model import Task
from maestro_dagster.policy.interface import Violation
from maestro_dagster.steps.interface import Effects, Estimate, StepKind

PACK = "admission"
_LATER = frozenset({"steps", "item", "index"})  # names that only a running step has


@dataclass(frozen=True, slots=True)
class Look:
    """Whom to ask, what expressions may name by now, and when (RFC 3339) and where the run is to be."""

    services: Services
    names: Mapping[str, Any]
    when: str
    region: str | None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step before a run. `nano` is its estimated cost in 10^-9 USD, None when a price is unknown."""

    step: str
    uses: str
    effects: Effects = field(default_factory=Effects)
    nano: int | None = None


def plan_step(look: Look, task: Task, path: str) -> tuple[StepPlan, list[Violation]]:
    """The plan of one step and what speaks against it. `path` is its JSON Pointer in the flow."""
    found: list[Violation] = []
    try:
        kind = look.services.catalogue.kind(task.uses)
    except MaestroError as error:
        return StepPlan(task.id, task.uses), [
            violation("kind-unknown", task.id, f"{path}/uses", error.fact, error.remedy)
        ]
    effects, nano, problem = _look_into(look, kind, task.with_)
    if problem:
        found.append(violation("config-invalid", task.id, f"{path}/with", problem, f"see `{kind.uses}`"))
    if task.uses.startswith(MAP) and not problem:
        inner, inner_nano, problem = _look_into_map(look, task)
        effects = _merge(effects, inner)
        nano = None if nano is None or inner_nano is None else nano + inner_nano
        if problem:
            found.append(violation("config-invalid", task.id, f"{path}/with", problem, "mend the inner step"))
    effects = Effects(
        egress=task.egress or effects.egress,
        secrets=tuple(dict.fromkeys((*task.secrets, *effects.secrets))),
        paths=effects.paths,
        runs_foreign_code=effects.runs_foreign_code,
    )
    found += _check_effects(look.services, task, path, effects)
    return StepPlan(task.id, task.uses, effects, nano), found


def _look_into(look: Look, kind: StepKind[Any], raw: Mapping[str, Any]) -> tuple[Effects, int | None, str]:
    """(effects, estimated nano-USD, what is wrong) of a configuration as far as it is known before a run."""
    resolved: dict[str, Any] = {}
    open_names: set[str] = set()
    for name, value in raw.items():
        try:
            if {reference.root for reference in references(value)} & _LATER:
                resolved[name] = value
                open_names.add(name)
            else:
                resolved[name] = resolve(value, look.names)
        except MaestroError as error:
            return Effects(), None, str(error)
    try:
        config = kind.config.model_validate(resolved)
    except ValueError as error:
        problem = _first_problem(error, open_names)
        if problem:
            return Effects(), None, problem
        # What an expression will give is not known yet: the kind looks at the rest as it stands.
        config = kind.config.model_construct(**resolved)
    try:
        return kind.effects(config), _price(look, kind, config), ""
    except MaestroError as error:
        return Effects(), None, str(error)
    except Exception:  # noqa: BLE001 - it was given an unresolved expression: expect the worst
        return Effects(runs_foreign_code=True), None, ""


def _price(look: Look, kind: StepKind[Any], config: Any) -> int | None:
    services, when = look.services, look.when
    estimate: Estimate = kind.estimate(config)
    model = estimate.model_nano
    if model is None and (request := kind.model_request(config, look.region)) is not None:
        model = services.hub.estimate_nano(request)
    work = price_work(services, estimate, when)
    return None if model is None or work is None else model + work


def _look_into_map(look: Look, task: Task) -> tuple[Effects, int | None, str]:
    try:
        inner = look.services.catalogue.kind(str(task.with_.get("uses", "")))
        items = task.with_.get("items")
        known = not {reference.root for reference in references(items)} & _LATER
        items = resolve(items, look.names) if known else None
    except MaestroError as error:
        return Effects(), None, str(error)
    count = len(items) if isinstance(items, list | tuple) else int(task.with_.get("max_items", 100))
    effects, nano, problem = _look_into(look, inner, task.with_.get("with", {}))
    return effects, None if nano is None else nano * count, problem


def _first_problem(error: ValueError, open_names: set[str]) -> str:
    """The first thing that is wrong apart from values that are not known yet."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    for each in error.errors(include_url=False, include_input=False):
        where = [str(part) for part in each["loc"]]
        if where and where[0] not in open_names:
            return f"`with.{'.'.join(where)}` is wrong: {each['msg']}"
        if not where and not open_names:
            return str(each["msg"])
    return ""


def _merge(left: Effects, right: Effects) -> Effects:
    return Effects(
        egress=(*left.egress, *right.egress),
        secrets=(*left.secrets, *right.secrets),
        paths=(*left.paths, *right.paths),
        runs_foreign_code=left.runs_foreign_code or right.runs_foreign_code,
    )


def _check_effects(services: Services, task: Task, path: str, effects: Effects) -> Iterator[Violation]:
    if effects.runs_foreign_code and task.isolation != "none" and (why := services.cage.refusal()):
        yield violation(
            "sandbox-unavailable",
            task.id,
            f"{path}/isolation",
            f"the step runs foreign code and no cage can be built here: {why}",
            "allow user namespaces on this machine, or say `isolation: none` for the step",
        )
    for name in effects.secrets:
        try:
            known = services.secrets(name) is not None
            fact, remedy = f"there is no secret {name}", "set it for this project, or take it off the step"
        except MaestroError as error:
            known, fact, remedy = False, error.fact, error.remedy
        if not known:
            yield violation("secret-missing", task.id, f"{path}/secrets", fact, remedy)


def violation(rule: str, step: str, path: str, message: str, remedy: str) -> Violation:
    return Violation(rule=rule, pack=PACK, step=step, path=path, message=message, remedy=remedy)
