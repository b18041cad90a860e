"""The input document: every fact present, exact money, every key found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from maestro_dagster.errors import PolicyError
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.normal import normal_form
from maestro_dagster.policy.document import build_document
from maestro_dagster.steps.interface import Effects


def flow(**fields: Any) -> Flow:
    tasks = fields.pop("tasks", [{"id": "a", "uses": "pkg:http/get@1.0.0"}])
    return Flow.model_validate({"name": "flow", "version": "1.0.0", "tasks": tasks, **fields})


def document(found: Flow, **given: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "request": {},
        "estimated_cost_usd": "0",
        "budget_usd": None,
        "effects": {},
        "now": "2026-01-01T00:00:00Z",
        "settings": {},
    }
    return build_document(found, **{**values, **given})


def test_every_fact_is_there_when_the_flow_says_nothing() -> None:
    found = document(flow())
    assert found["facts"] == {
        "name": "flow",
        "version": "1.0.0",
        "region": None,
        "license_class": None,
        "retention_tier": None,
        "contains_pii": False,
        "legal_hold": False,
        "export_target": None,
        "purpose": [],
    }
    assert found["request"] == {"region": None}
    assert found["settings"] == {"pii_allow_stricter_tier": True}
    assert found["budget"] is None


def test_paths_point_into_the_normal_form() -> None:
    tasks = [
        {"id": "b", "uses": "pkg:http/get@1.0.0", "with": {"x": [{"y/z~": {"ssn": 1}}]}},
        {"id": "a", "uses": "pkg:http/get@1.0.0", "needs": ["b"]},
    ]
    given = flow(
        tasks=tasks, inputs={"ssn": {"deep": 1}}, params={"q": {"default": {"k": 1}}}, labels={"l": "v"}
    )
    found = document(given)
    normal = normal_form(given)
    keys = [key for task in found["tasks"] for key in task["keys"]]
    assert [key["name"] for key in keys] == ["x", "y/z~", "ssn"]
    for task in found["tasks"]:
        assert resolve(normal, task["path"])["id"] == task["id"]
    for key in [*keys, *found["keys"]]:
        resolve(normal if key["name"] != "k" else {"params": {"q": {"k": 1}}}, key["path"])
    assert {key["name"] for key in found["keys"]} == {"q", "k", "ssn", "deep", "l"}


def resolve(value: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def test_deep_values_are_walked_without_recursion() -> None:
    deep: Any = {"ssn": 1}
    for _ in range(50):
        deep = [{"n": deep}]
    found = document(flow(tasks=[{"id": "a", "uses": "pkg:http/get@1.0.0", "with": {"d": deep}}]))
    assert found["tasks"][0]["keys"][-1]["name"] == "ssn"


def test_data_classes_reach_the_keys() -> None:
    given = flow(
        params={"ssn": {"data_class": "personal"}, "mail": {}},
        data_classes={"mail": "personal"},
        inputs={"x": 1},
    )
    classes = {key["name"]: key["data_class"] for key in document(given)["keys"]}
    assert classes == {"ssn": "personal", "mail": "personal", "x": None}


@pytest.mark.parametrize(
    ("text", "usd", "nano"),
    [("0", 0, 0), ("0.5", 0, 500_000_000), ("12.000000001", 12, 1), ("999999999999", 999_999_999_999, 0)],
)
def test_money_is_exact(text: str, usd: int, nano: int) -> None:
    found = document(flow(), estimated_cost_usd=text)["estimate"]
    assert found == {"usd": usd, "nano": nano, "text": text}


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.0000000001", ".5", "٣", "1_0", "9" * 16])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(repr(text))):
        document(flow(), estimated_cost_usd=text)


def test_the_smaller_budget_counts() -> None:
    assert document(flow(budget={"usd": "0.5"}), budget_usd="5")["budget"]["text"] == "0.5"
    assert document(flow(budget={"usd": "0.5"}), budget_usd="0.10")["budget"]["text"] == "0.10"
    assert document(flow(budget={"tokens": 5}))["budget"] is None


def test_an_unknown_price_stays_unknown() -> None:
    found = document(flow(), estimated_cost_usd=None, estimates={"a": None})
    assert found["estimate"] is None
    assert found["tasks"][0]["estimate"] is None


def test_effects_as_records_and_as_mappings() -> None:
    given = flow(tasks=[{"id": "a", "uses": "pkg:http/get@1.0.0", "egress": ["b.example"]}])
    for effects in (Effects(egress=("a.example",), runs_foreign_code=True), {
        "egress": ["a.example"], "runs_foreign_code": True,
    }):  # fmt: skip
        found = document(given, effects={"a": effects})["tasks"][0]["effects"]
        assert found == {
            "egress": ["a.example", "b.example"],
            "secrets": [],
            "paths": [],
            "runs_foreign_code": True,
        }
