"""May a run begin? What the packs say, what it may cost, and whether this machine can do it at all.

Nothing here starts, writes or calls anything outside: `maestro plan` shows the same assessment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.loop import MAP
from maestro_dagster.engine.scope import fill_params
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import format_time
from maestro_dagster.errors import MaestroError
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.expression import GIT_FIELDS, references, resolve
from maestro_dagster.manifest.model import Flow, Param, Task
from maestro_dagster.manifest.money import format_nano, parse_usd
from maestro_dagster.policy.interface import Decision, Verdict, Violation
from maestro_dagster.steps.interface import Effects, Estimate, StepKind

PACK = "admission"
_DIGEST = digest_bytes(b"maestro-admission/1")  # of the rules below: count on when they change
_LATER = frozenset({"steps", "item", "index"})  # names that only a running step has


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step before a run. `nano` is its estimated cost in 10^-9 USD, None when a price is unknown."""

    step: str
    uses: str
    effects: Effects = field(default_factory=Effects)
    nano: int | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    decision: Decision
    nano: int | None  # estimated cost of the whole run
    steps: tuple[StepPlan, ...]


def assess(services: Services, request: RunRequest) -> Assessment:
    """The assessment of a request whose flow is in its normal form."""
    flow = request.flow
    now = time.time()
    violations = list(_check_params(flow, request.params))
    names = {
        "params": fill_params(flow, request.params),
        "git": {**dict.fromkeys(GIT_FIELDS, ""), **request.git} if request.git else {},
        "run": {"id": request.run_id},
    }
    steps = []
    for index, task in enumerate(flow.tasks):
        plan, found = _plan_step(services, task, f"/tasks/{index}", names, format_time(now))
        steps.append(plan)
        violations += found
    costs = [step.nano for step in steps]
    nano = None if None in costs else sum(cost for cost in costs if cost is not None)
    document = services.policy_document(
        flow,
        request={
            "region": request.region or services.region,
            "actor": request.actor,
            "cause": request.cause,
            "partition": request.partition,
            "tenant": services.tenant,
            "env": services.env,
        },
        estimated_cost_usd=None if nano is None else format_nano(nano),
        budget_usd=None if request.budget_nano is None else format_nano(request.budget_nano),
        effects={step.step: step.effects for step in steps},
        now=format_time(now),
        settings=services.policy_settings,
        estimates={step.step: None if step.nano is None else format_nano(step.nano) for step in steps},
    )
    decision = services.policy.evaluate(document)
    # What is wrong with a step also hides its price: one cause, one violation.
    if not violations and not any(verdict.pack == "budget" for verdict in decision.verdicts):
        violations += _check_budget(flow, request.budget_nano, nano)
    own = Verdict(PACK, _DIGEST, not violations, tuple(violations))
    whole = Decision(
        allow=decision.allow and own.allow,
        verdicts=(*decision.verdicts, own),
        engine=decision.engine,
        input_digest=decision.input_digest,
    )
    return Assessment(whole, nano, tuple(steps))


def decision_from_json(document: Mapping[str, Any]) -> Decision:
    """The inverse of `Decision.to_json`."""
    verdicts = tuple(
        Verdict(
            pack=verdict["pack"],
            digest=verdict["digest"],
            allow=verdict["allow"],
            violations=tuple(Violation(**violation) for violation in verdict["violations"]),
            warnings=tuple(verdict["warnings"]),
        )
        for verdict in document["verdicts"]
    )
    return Decision(document["allow"], verdicts, document["engine"], document["input_digest"])


def _plan_step(
    services: Services, task: Task, path: str, names: Mapping[str, Any], when: str
) -> tuple[StepPlan, list[Violation]]:
    found: list[Violation] = []
    try:
        kind = services.catalogue.kind(task.uses)
    except MaestroError as error:
        return StepPlan(task.id, task.uses), [
            _violation("kind-unknown", task.id, f"{path}/uses", error.fact, error.remedy)
        ]
    effects, nano, problem = _look_into(services, kind, task.with_, names, when)
    if problem:
        found.append(_violation("config-invalid", task.id, f"{path}/with", problem, f"see `{kind.uses}`"))
    if task.uses.startswith(MAP) and not problem:
        inner, inner_nano, problem = _look_into_map(services, task, names, when)
        effects = _merge(effects, inner)
        nano = None if nano is None or inner_nano is None else nano + inner_nano
        if problem:
            found.append(
                _violation("config-invalid", task.id, f"{path}/with", problem, "mend the inner step")
            )
    effects = Effects(
        egress=task.egress or effects.egress,
        secrets=tuple(dict.fromkeys((*task.secrets, *effects.secrets))),
        paths=effects.paths,
        runs_foreign_code=effects.runs_foreign_code,
    )
    found += _check_effects(services, task, path, effects)
    return StepPlan(task.id, task.uses, effects, nano), found


def _look_into(
    services: Services, kind: StepKind[Any], raw: Mapping[str, Any], names: Mapping[str, Any], when: str
) -> tuple[Effects, int | None, str]:
    """(effects, estimated nano-USD, what is wrong) of a configuration as far as it is known before a run."""
    resolved: dict[str, Any] = {}
    open_names: set[str] = set()
    for name, value in raw.items():
        try:
            if {reference.root for reference in references(value)} & _LATER:
                resolved[name] = value
                open_names.add(name)
            else:
                resolved[name] = resolve(value, names)
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
        return kind.effects(config), _price(services, kind, config, when), ""
    except MaestroError as error:
        return Effects(), None, str(error)
    except Exception:  # noqa: BLE001 - it was given an unresolved expression: expect the worst
        return Effects(runs_foreign_code=True), None, ""


def _price(services: Services, kind: StepKind[Any], config: Any, when: str) -> int | None:
    estimate: Estimate = kind.estimate(config)
    model = estimate.model_nano
    if model is None and (request := kind.model_request(config)) is not None:
        model = services.hub.estimate_nano(request)
    compute, _ = services.rates.price_compute(round(estimate.cpu_seconds * 1000), when)
    storage, _ = services.rates.price_storage(estimate.bytes_out, when) if estimate.bytes_out else (0, "")
    if model is None or compute is None or storage is None:
        return None
    return model + compute + storage


def _look_into_map(
    services: Services, task: Task, names: Mapping[str, Any], when: str
) -> tuple[Effects, int | None, str]:
    try:
        inner = services.catalogue.kind(str(task.with_.get("uses", "")))
        items = task.with_.get("items")
        known = not {reference.root for reference in references(items)} & _LATER
        items = resolve(items, names) if known else None
    except MaestroError as error:
        return Effects(), None, str(error)
    count = len(items) if isinstance(items, list | tuple) else int(task.with_.get("max_items", 100))
    effects, nano, problem = _look_into(services, inner, task.with_.get("with", {}), names, when)
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
        yield _violation(
            "sandbox-unavailable",
            task.id,
            f"{path}/isolation",
            f"the step runs foreign code and no cage can be built here: {why}",
            "allow user namespaces on this machine, or say `isolation: none` for the step",
        )
    for name in effects.secrets:
        if services.secrets(name) is None:
            yield _violation(
                "secret-missing",
                task.id,
                f"{path}/secrets",
                f"there is no secret {name}",
                "set it for this project; the name stands in the step's `secrets`",
            )


def _check_params(flow: Flow, given: Mapping[str, Any]) -> Iterator[Violation]:
    for name in sorted(given.keys() - flow.params.keys()):
        known = ", ".join(flow.params) or "none"
        yield _violation(
            "param-unknown", "", "/params", f"the flow has no parameter {name}", f"its parameters: {known}"
        )
    for name, param in flow.params.items():
        value = given.get(name, param.default)
        path = f"/params/{name}"
        if value is None:
            if param.required:
                yield _violation(
                    "param-missing", "", path, f"the parameter {name} is required", f"give it: -p {name}=..."
                )
        elif not _has_type(value, param):
            yield _violation(
                "param-type",
                "",
                path,
                f"the parameter {name} is {type(value).__name__}, the flow wants {param.type}",
                f"give a value of type {param.type}",
            )
        elif param.enum is not None and value not in param.enum:
            allowed = ", ".join(map(str, param.enum))
            yield _violation(
                "param-enum",
                "",
                path,
                f"the parameter {name} is none of the allowed values",
                f"use {allowed}",
            )


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


def _has_type(value: Any, param: Param) -> bool:
    if isinstance(value, bool):
        return param.type == "boolean"
    return isinstance(value, _TYPES[param.type])


def _check_budget(flow: Flow, budget_nano: int | None, nano: int | None) -> Iterator[Violation]:
    limits = [] if budget_nano is None else [budget_nano]
    if flow.budget is not None and flow.budget.usd is not None:
        limits.append(parse_usd(flow.budget.usd))
    if nano is None:
        yield _violation(
            "price-unknown",
            "",
            "/budget",
            "what the run will cost is not known, because some step has no price",
            "add the missing price to resources/models.yaml or rates.yaml",
        )
    elif limits and nano > min(limits):
        yield _violation(
            "budget-exceeded",
            "",
            "/budget",
            f"estimated cost {format_nano(nano)} USD exceeds the budget of {format_nano(min(limits))} USD",
            "raise the budget, or choose a cheaper model",
        )


def _violation(rule: str, step: str, path: str, message: str, remedy: str) -> Violation:
    return Violation(rule=rule, pack=PACK, step=step, path=path, message=message, remedy=remedy)
