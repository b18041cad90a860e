"""The one input document that every pack sees as `input`.

    schema    "maestro.policy/1"
    flow      the flow's normal form: what its digest is over. Defaults are omitted there, so rules
              that must never pass by absence read `facts` instead.
    facts     {name, version, region, license_class, retention_tier, contains_pii, legal_hold,
              export_target, purpose}: every key always present, null where the flow says nothing
    tasks     per step, in the order of the normal form (by id):
              {id, path (JSON Pointer into flow), uses, kind ("llm/generate"), license_class,
               data_class, budget (money or null), estimate (money or null),
               keys: [{name, path}]  every key at any depth of `with`,
               effects: {egress, secrets, paths, runs_foreign_code}}
    keys      [{name, path, data_class}] of the flow's params, inputs and labels, at any depth;
              data_class is that of the whole param or input, null where the flow says nothing
    request   {region: text or null, ...} what the asker said, as given: actor, cause, partition, tenant,
              env, and event, null or what of a repository asked: {kind, action, number, title, base_ref,
              head_ref, url, conclusion, repository, ref: text, labels: [text], fork: boolean}
    budget    money or null (no budget was given)
    estimate  money or null (unknown: some step's price is not known)
    settings  {pii_allow_stricter_tier: boolean, ...} the project's switches
    now       RFC 3339, UTC: the only clock a pack may read

Money is {usd: whole dollars, nano: 0..999999999, text}: two integers below 2^53 that compare exactly as
the array [usd, nano].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from maestro_dagster.errors import PolicyError
from maestro_dagster.manifest.model import Flow, Task

SCHEMA = "maestro.policy/1"
DEFAULT_SETTINGS = {"pii_allow_stricter_tier": True}
_NANO_DIGITS = 9


def build_document(
    flow: Flow,
    *,
    request: Mapping[str, Any],
    estimated_cost_usd: str | None,
    budget_usd: str | None,
    effects: Mapping[str, Any],
    now: str,
    settings: Mapping[str, Any],
    estimates: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The document above.

    Args:
        flow: what was asked to run.
        request: what the asker said: `region` and whatever else packs want to read.
        estimated_cost_usd: decimal text; None when the price of some step is unknown.
        budget_usd: decimal text, the smallest budget that applies; None when there is none. The
            flow's own budget counts as well: the smaller of the two is taken.
        effects: per step id an Effects, or a mapping with its fields.
        now: RFC 3339 in UTC.
        settings: the project's switches; see DEFAULT_SETTINGS.
        estimates: per step id the estimated cost as decimal text, None where unknown.

    """
    from maestro_dagster.manifest.normal import normal_form

    steps = estimates or {}
    return {
        "schema": SCHEMA,
        "flow": normal_form(flow),
        "facts": _facts(flow),
        "tasks": [
            _task(task, index, effects.get(task.id), steps.get(task.id))
            for index, task in enumerate(sorted(flow.tasks, key=lambda task: task.id))
        ],
        "keys": [
            {"name": name, "path": path, "data_class": data_class}
            for value, where, data_class in _roots(flow)
            for name, path in _keys(value, where)
        ],
        "request": {"region": None, **request},
        "budget": _smallest(budget_usd, flow.budget.usd if flow.budget else None),
        "estimate": _money(estimated_cost_usd),
        "settings": {**DEFAULT_SETTINGS, **settings},
        "now": now,
    }


def _facts(flow: Flow) -> dict[str, Any]:
    return {
        "name": flow.name,
        "version": flow.version,
        "region": flow.region,
        "license_class": flow.license_class,
        "retention_tier": flow.retention_tier,
        "contains_pii": flow.contains_pii,
        "legal_hold": flow.legal_hold,
        "export_target": flow.export.target if flow.export else None,
        "purpose": list(flow.purpose),
    }


def _roots(flow: Flow) -> Iterator[tuple[Any, str, str | None]]:
    for name, param in flow.params.items():
        data_class = param.data_class or flow.data_classes.get(name)
        yield {name: param.default}, "/params", data_class
    for name, value in flow.inputs.items():
        yield {name: value}, "/inputs", flow.data_classes.get(name)
    yield flow.labels, "/labels", None


def _task(task: Task, index: int, effects: Any, estimate: str | None) -> dict[str, Any]:
    path = f"/tasks/{index}"
    found = (
        asdict(effects) if is_dataclass(effects) and not isinstance(effects, type) else dict(effects or {})
    )
    return {
        "id": task.id,
        "path": path,
        "uses": task.uses,
        "kind": task.uses.removeprefix("pkg:").rsplit("@", 1)[0],
        "license_class": task.license_class,
        "data_class": task.data_class,
        "budget": _money(task.budget.usd if task.budget else None),
        "estimate": _money(estimate),
        "keys": [{"name": name, "path": where} for name, where in _keys(task.with_, f"{path}/with")],
        "effects": {
            "egress": sorted({*found.get("egress", ()), *task.egress}),
            "secrets": sorted({*found.get("secrets", ()), *task.secrets}),
            "paths": sorted(found.get("paths", ())),
            "runs_foreign_code": bool(found.get("runs_foreign_code", False)),
        },
    }


def _keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every key at any depth with its JSON Pointer (RFC 6901), in document order; input may be deep."""
    stack = [(value, path)]
    while stack:
        here, place = stack.pop()
        inner: list[tuple[Any, str]] = []
        if isinstance(here, Mapping):
            for name, item in here.items():
                where = f"{place}/{str(name).replace('~', '~0').replace('/', '~1')}"
                yield str(name), where
                inner.append((item, where))
        elif isinstance(here, list | tuple):
            inner = [(item, f"{place}/{index}") for index, item in enumerate(here)]
        stack.extend(reversed(inner))


def _smallest(*texts: str | None) -> dict[str, Any] | None:
    amounts = [amount for amount in map(_money, texts) if amount is not None]
    return min(amounts, key=lambda amount: (amount["usd"], amount["nano"]), default=None)


def _money(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    whole, _, part = text.partition(".")
    digits = part.ljust(_NANO_DIGITS, "0")
    if not (whole.isascii() and whole.isdigit() and digits.isascii() and digits.isdigit()):
        raise _no_amount(text)
    if len(digits) > _NANO_DIGITS or len(whole) > 15:  # noqa: PLR2004 - below 2^53
        raise _no_amount(text)
    return {"usd": int(whole), "nano": int(digits), "text": text}


def _no_amount(text: str) -> PolicyError:
    return PolicyError(
        f"{text!r} is no amount of USD",
        remedy="write digits with at most nine decimals, such as 0.50",
        code="policy-amount-invalid",
    )
