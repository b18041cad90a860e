"""May a run begin? What the packs say, what it may cost, and whether this machine can do it at all.

Nothing here starts, writes or calls anything outside: `maestro plan` shows the same assessment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maestro_dagster.engine.forecast import PACK, Look, StepPlan, plan_step, violation
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.scope import fill_params
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import format_time
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.expression import GIT_FIELDS
from maestro_dagster.manifest.model import Flow, Param
from maestro_dagster.manifest.money import format_nano, parse_usd
from maestro_dagster.policy.interface import Decision, Verdict, Violation

__all__ = ["PACK", "Assessment", "StepPlan", "assess", "decision_from_json"]

_DIGEST = digest_bytes(b"maestro-admission/2")  # of the rules below: count on when they change


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
    look = Look(services, names, format_time(now), request.region or services.region)
    steps = []
    for index, task in enumerate(flow.tasks):
        plan, found = plan_step(look, task, f"/tasks/{index}")
        steps.append(plan)
        violations += found
    costs = [step.nano for step in steps]
    nano = None if None in costs else sum(cost for cost in costs if cost is not None)
    day = format_time(now)[:10]
    limits = [services.budgets.run_limit(flow.name, day), request.budget_nano]
    most = min((limit for limit in limits if limit is not None), default=None)
    document = services.policy_document(
        flow,
        request={
            "region": look.region,
            "actor": request.actor,
            "cause": request.cause,
            "event": describe_event(request.git),
            "partition": request.partition,
            "tenant": services.tenant,
            "env": services.env,
        },
        estimated_cost_usd=None if nano is None else format_nano(nano),
        budget_usd=None if most is None else format_nano(most),
        effects={step.step: step.effects for step in steps},
        now=format_time(now),
        settings=services.policy_settings,
        estimates={step.step: None if step.nano is None else format_nano(step.nano) for step in steps},
    )
    decision = services.policy.evaluate(document)
    # What is wrong with a step also hides its price: one cause, one violation.
    if not violations and not any(verdict.pack == "budget" for verdict in decision.verdicts):
        violations += _check_budget(flow, most, nano)
    refused, warnings = services.budgets.admit(flow.name, nano, day)
    violations += [violation(error.error_code, "", "/budget", error.fact, error.remedy) for error in refused]
    own = Verdict(PACK, _DIGEST, not violations, tuple(violations), tuple(warnings))
    whole = Decision(
        allow=decision.allow and own.allow,
        verdicts=(*decision.verdicts, own),
        engine=decision.engine,
        input_digest=decision.input_digest,
    )
    return Assessment(whole, nano, tuple(steps))


def describe_event(git: Mapping[str, str]) -> dict[str, Any] | None:
    """What of a repository asked for the run; None where nothing of the kind did."""
    if not git.get("event"):
        return None
    names = ("action", "number", "title", "base_ref", "head_ref", "url", "conclusion", "repository", "ref")
    return {
        "kind": git["event"],
        **{name: git.get(name, "") for name in names},
        "labels": [label for label in git.get("labels", "").split(",") if label],
        "fork": git.get("fork") != "false",
    }


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


def _check_params(flow: Flow, given: Mapping[str, Any]) -> Iterator[Violation]:
    for name in sorted(given.keys() - flow.params.keys()):
        known = ", ".join(flow.params) or "none"
        yield violation(
            "param-unknown", "", "/params", f"the flow has no parameter {name}", f"its parameters: {known}"
        )
    for name, param in flow.params.items():
        value = given.get(name, param.default)
        path = f"/params/{name}"
        if value is None:
            if param.required:
                yield violation(
                    "param-missing", "", path, f"the parameter {name} is required", f"give it: -p {name}=..."
                )
        elif not _has_type(value, param):
            yield violation(
                "param-type",
                "",
                path,
                f"the parameter {name} is {type(value).__name__}, the flow wants {param.type}",
                f"give a value of type {param.type}",
            )
        elif param.enum is not None and value not in param.enum:
            allowed = ", ".join(map(str, param.enum))
            yield violation(
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
        yield violation(
            "price-unknown",
            "",
            "/budget",
            "what the run will cost is not known, because some step has no price",
            "add the missing price to resources/models.yaml or rates.yaml",
        )
    elif limits and nano > min(limits):
        yield violation(
            "budget-exceeded",
            "",
            "/budget",
            f"estimated cost {format_nano(nano)} USD exceeds the budget of {format_nano(min(limits))} USD",
            "raise the budget, or choose a cheaper model",
        )
