"""The normal form of a flow and its digest: one form, whichever dialect the flow came in.

Defaults are left out by the frozen table below, never by the model's own defaults: a default that
changes later must not move the digest of a flow that was signed before. The order of steps and of
needs carries no meaning, so both are sorted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest.canonical import MAX_SAFE_INTEGER, canonical_json, digest_bytes
from maestro_dagster.manifest.model import Flow

SCHEMA = "maestro.flow/v1"

# Frozen with the schema version. A new field joins with its default; no line ever changes.
FLOW_DEFAULTS: Mapping[str, Any] = {
    "description": "",
    "on": [],
    "params": {},
    "inputs": {},
    "labels": {},
    "owners": [],
    "region": None,
    "purpose": [],
    "license_class": None,
    "retention_tier": None,
    "contains_pii": False,
    "legal_hold": False,
    "export": None,
    "data_classes": {},
    "budget": None,
}
TASK_DEFAULTS: Mapping[str, Any] = {
    "with": {},
    "needs": [],
    "assets": {},
    "if": None,
    "join": "all",
    "retries": 0,
    "timeoutSeconds": None,
    "resources": None,
    "budget": None,
    "egress": [],
    "secrets": [],
    "isolation": "namespaces",
    "license_class": None,
    "data_class": None,
}
PARAM_DEFAULTS: Mapping[str, Any] = {
    "type": "string",
    "enum": None,
    "default": None,
    "required": False,
    "description": "",
    "data_class": None,
}
TRIGGER_DEFAULTS: Mapping[str, Any] = {
    "branches": [],
    "paths": [],
    "schedule": None,
    "labels": [],
    "actions": [],
    "conclusions": [],
    "forks": False,
}
BUDGET_DEFAULTS: Mapping[str, Any] = {"usd": None, "tokens": None}
RESOURCES_DEFAULTS: Mapping[str, Any] = {"class": None, "pod": False}


def normal_form(flow: Flow) -> dict[str, Any]:
    """The flow as plain JSON: defaults left out, steps sorted by id, needs sorted and unique."""
    form = declared_form(flow)
    form["schema"] = SCHEMA
    for task in form["tasks"]:
        if "needs" in task:
            task["needs"] = sorted(set(task["needs"]))
    form["tasks"].sort(key=_id_of)
    return form


def declared_form(flow: Flow) -> dict[str, Any]:
    """The flow as plain JSON, defaults left out, in the order in which it was declared."""
    form = _without(_json_safe(flow.model_dump(mode="json", by_alias=True)), FLOW_DEFAULTS)
    form["tasks"] = [_declared_task(task) for task in form.pop("tasks")]
    if "on" in form:
        form["on"] = [_without(trigger, TRIGGER_DEFAULTS) for trigger in form["on"]]
    if "params" in form:
        form["params"] = {name: _without(each, PARAM_DEFAULTS) for name, each in form["params"].items()}
    if "budget" in form:
        form["budget"] = _without(form["budget"], BUDGET_DEFAULTS)
    return form


def _declared_task(task: dict[str, Any]) -> dict[str, Any]:
    form = _without(task, TASK_DEFAULTS)
    if "budget" in form:
        form["budget"] = _without(form["budget"], BUDGET_DEFAULTS)
    if "resources" in form:
        form["resources"] = _without(form["resources"], RESOURCES_DEFAULTS)
    return form


def _id_of(task: Mapping[str, Any]) -> str:
    return str(task["id"])


def _without(form: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    missing = object()  # equal to no value, so that fields without a default always stay
    return {key: value for key, value in form.items() if not _same(value, defaults.get(key, missing))}


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _json_safe(value: Any) -> Any:
    """The value with integers beyond 2^53 - 1 as strings: other readers of JSON would round them."""
    kind = type(value)
    if kind is str or kind is bool or value is None or kind is float:
        return value
    if kind is int:
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if kind is dict:
        return {key: _json_safe(each) for key, each in value.items()}
    return [_json_safe(each) for each in value]


def flow_json(flow: Flow) -> bytes:
    """The RFC 8785 bytes of the normal form: what `flow.json` in the evidence holds."""
    return canonical_json(normal_form(flow))


def flow_digest(flow: Flow) -> str:
    """`sha256:<hex>` over `flow_json`."""
    return digest_bytes(flow_json(flow))


def flow_from_normal(form: bytes | Mapping[str, Any]) -> Flow:
    """The flow of a normal form; `normal_form` of it gives the same form again.

    Raises ManifestError `schema-version` for a form of a later schema, `normal-form` for a broken one.
    """
    try:
        text = form if isinstance(form, bytes) else json.dumps(form)
        data = json.loads(text, parse_int=_read_integer)
    except (TypeError, ValueError, RecursionError) as error:
        raise _broken(str(error)) from error
    if not isinstance(data, dict):
        raise _broken("it is no JSON object")
    version = data.pop("schema", None)
    if version != SCHEMA:
        raise ManifestError(
            f"the flow has the schema {version!r}, this release reads {SCHEMA!r}",
            remedy="Use the release of Maestro that wrote it, or a later one.",
            code="schema-version",
        )
    try:
        return Flow.model_validate(data, by_alias=True, by_name=False)
    except ValueError as error:
        raise _broken(str(error)) from error


def _read_integer(text: str) -> int | float:
    # A normal form holds no integer beyond 2^53 - 1; where one seems to stand, a float was written
    # without exponent, as RFC 8785 does below 10^21.
    value = int(text)
    return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else float(text)


def _broken(why: str) -> ManifestError:
    return ManifestError(
        f"this is not the normal form of a flow: {why}",
        remedy="Make it again with `maestro flow show --json`.",
        code="normal-form",
    )
