"""A flow keeps its digest through every dialect, text form and the normal form."""

from __future__ import annotations

import json
import os
import random
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.manifest.dialect import DIALECTS, Dialect, read_source
from maestro_dagster.manifest.model import DataClass, Flow
from maestro_dagster.manifest.normal import flow_digest, flow_from_normal, flow_json, normal_form
from maestro_dagster.manifest.read import parse_text, read_flow_text
from maestro_dagster.manifest.write import write_flow

_IDS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
# No surrogates: they are no text. All else, control characters and line breaks of every kind included.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        [
            "NO",
            "on",
            "~",
            "null",
            "1e3",
            "0x1F",
            "2024-01-01",
            "12:30",
            "a: b",
            "- a",
            "# no",
            "x #y",
            " x",
            "x ",
            "a\nb\n",
            "a\n\nb\n",
            "\n",
            "a\n ",
            "a\n\n",
            "a\n\n\nb\n",
            "tab\tx",
            "'",
            '"',
            "\\",
            "{{ x }}",
            "[a]",
            "!t",
            "&a",
            "*a",
            "|",
            "%",
            "@",
            "`",
            "? x",
            ": x",
            "a:",
            "---",
            "...",
            "<<",
            "\u2028",
            "\x85",
            "\ufeff",
            "😀",
            "a\r\nb",
            "a \nb\n",
            "0",
            "-1",
            ".5",
            "1.0.0",
            "true",
            "=",
            "~x",
            "-x",
            "a#b",
            "a:b",
            "é",
            "\x7f",
        ]
    ),
)
_KEYS = TEXTS
_NUMBERS = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
JSON = st.recursive(
    st.one_of(st.none(), TEXTS, _NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=8,
)
_DATA_CLASSES = st.sampled_from(DataClass.__args__)  # type: ignore[attr-defined]
_LICENSES = st.sampled_from(["MIT_OK", "OPEN_DATA_OK", "RESTRICTED_TOS", "PROPRIETARY_CLIENT", "EMBARGOED"])
_BUDGETS = st.fixed_dictionaries(
    {},
    optional={
        "usd": st.one_of(
            st.sampled_from(["0.50", "0", "1", "999999999999.999999999"]), st.integers(0, 10**6)
        ),
        "tokens": st.integers(0, 10**9),
    },
)
_NAMES = st.lists(TEXTS, max_size=3)


def _maybe(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


_TASK_FIELDS = _maybe(
    {
        "with": st.dictionaries(_KEYS, JSON, max_size=4),
        "assets": st.dictionaries(_KEYS, TEXTS, max_size=2),
        "if": TEXTS,
        "join": st.sampled_from(["all", "any"]),
        "retries": st.integers(0, 10),
        "timeoutSeconds": st.integers(1, 86400),
        "resources": _maybe({"class": st.sampled_from(["small", "medium", "large"]), "pod": st.booleans()}),
        "budget": _BUDGETS,
        "egress": _NAMES,
        "secrets": _NAMES,
        "isolation": st.sampled_from(["namespaces", "none"]),
        "license_class": _LICENSES,
        "data_class": _DATA_CLASSES,
    }
)
_TRIGGERS = st.one_of(
    st.sampled_from(["push", "pr", "tag", "release", "manual"]),
    st.fixed_dictionaries({"schedule": TEXTS}),
    st.fixed_dictionaries(
        {"event": st.sampled_from(["push", "schedule"])},
        optional={"branches": _NAMES, "paths": _NAMES, "schedule": TEXTS},
    ),
)
_PARAMS = _maybe(
    {
        "type": st.sampled_from(["string", "integer", "number", "boolean", "array", "object"]),
        "enum": st.lists(JSON, max_size=3),
        "default": JSON,
        "required": st.booleans(),
        "description": TEXTS,
        "data_class": _DATA_CLASSES,
    }
)
_FLOW_FIELDS = _maybe(
    {
        "description": TEXTS,
        "on": st.lists(_TRIGGERS, max_size=3),
        "params": st.dictionaries(_KEYS, _PARAMS, max_size=3),
        "inputs": st.dictionaries(_KEYS, JSON, max_size=3),
        "labels": st.dictionaries(_KEYS, TEXTS, max_size=3),
        "owners": _NAMES,
        "region": TEXTS,
        "purpose": st.lists(st.sampled_from(["demo", "t&s", "training"]), max_size=2),
        "license_class": _LICENSES,
        "retention_tier": st.sampled_from(["ephemeral-7d", "short-30d", "legal-hold"]),
        "contains_pii": st.booleans(),
        "legal_hold": st.booleans(),
        "export": st.fixed_dictionaries({"target": TEXTS}),
        "data_classes": st.dictionaries(_KEYS, _DATA_CLASSES, max_size=2),
        "budget": _BUDGETS,
    }
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document in the canonical dialect that the model accepts; ids and needs form a sound graph."""
    ids = draw(st.lists(_IDS, min_size=1, max_size=5, unique=True))
    tasks = []
    for number, step in enumerate(ids):
        needs = draw(st.lists(st.sampled_from(ids[:number]), unique=True)) if number else []
        uses = draw(st.sampled_from(["pkg:http/get@1.0.0", "pkg:a-b/c.d_e@10.20.30"]))
        tasks.append({"id": step, "uses": uses, "needs": needs, **draw(_TASK_FIELDS)})
    name = draw(st.text(string.ascii_letters + string.digits + "_-", min_size=3, max_size=12))
    version = draw(st.sampled_from(["1.0.0", "0.0.0", "2.1.3-rc.1"]))
    order = draw(st.permutations(range(len(tasks))))
    return {"name": name, "version": version, **draw(_FLOW_FIELDS), "tasks": [tasks[each] for each in order]}


def flows() -> st.SearchStrategy[Flow]:
    return documents().map(Flow.model_validate)


SOAK = os.environ.get("MAESTRO_SOAK") == "1"


def examples(reduced: int) -> settings:
    return settings(
        max_examples=10_000 if SOAK else reduced,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not SOAK,
    )


def read_back(text: str, name: str) -> Flow:
    """What the reader makes of a text; lint apart, which refuses many generated names and schedules."""
    source = read_source(parse_text(text, name))
    assert not source.remarks
    return Flow.model_validate(source.document, by_alias=True, by_name=False)


@given(flows(), st.permutations(DIALECTS))
@examples(150)
def test_there_and_back_through_all_dialects_keeps_the_digest(flow: Flow, order: list[Dialect]) -> None:
    digest = flow_digest(flow)
    for dialect in order:
        for as_json in (False, True):
            text = write_flow(flow, dialect, as_json=as_json)
            again = read_back(text, "flow.json" if as_json else "flow.yaml")
            assert flow_digest(again) == digest, text
            assert [task.id for task in again.tasks] == [task.id for task in flow.tasks]
            flow = again


@given(flows())
@examples(30)
def test_the_normal_form_is_its_own_inverse(flow: Flow) -> None:
    form = flow_json(flow)
    again = flow_from_normal(form)
    assert flow_json(again) == form
    assert flow_json(flow_from_normal(json.loads(form))) == form
    assert flow_digest(again) == flow_digest(flow)


@given(documents(), st.randoms())
@examples(30)
def test_order_of_steps_needs_and_keys_does_not_matter(
    document: dict[str, Any], shuffle: random.Random
) -> None:
    digest = flow_digest(Flow.model_validate(document))
    tasks = [dict(shuffle.sample(list(task.items()), len(task))) for task in document["tasks"]]
    for task in tasks:
        shuffle.shuffle(task["needs"])
    shuffle.shuffle(tasks)
    assert flow_digest(Flow.model_validate({**document, "tasks": tasks})) == digest


@given(documents())
@examples(30)
def test_saying_a_default_does_not_move_the_digest(document: dict[str, Any]) -> None:
    said = {"description": "", "contains_pii": False, "labels": {}, "region": None, **document}
    said["tasks"] = [
        {"retries": 0, "join": "all", "if": None, "egress": [], **task} for task in document["tasks"]
    ]
    assert flow_digest(Flow.model_validate(said)) == flow_digest(Flow.model_validate(document))


@pytest.mark.parametrize(
    ("field", "value"),
    [("region", "EU"), ("contains_pii", True), ("budget", {"usd": "1"}), ("on", ["push"]), ("owners", ["a"])],
)
def test_every_change_moves_the_digest(field: str, value: object) -> None:
    base = {"name": "abc", "version": "1.0.0", "tasks": [{"id": "a", "uses": "pkg:http/get@1.0.0"}]}
    assert flow_digest(Flow.model_validate({**base, field: value})) != flow_digest(Flow.model_validate(base))


def test_integers_beyond_doubles_are_texts_and_money_is_canonical() -> None:
    text = b"""name: abc
version: 1.0.0
budget: {usd: 0.50}
inputs: {big: 9007199254740993, safe: 9007199254740991, low: -9007199254740993, float: 1e20}
tasks: [{id: a, uses: pkg:http/get@1.0.0}]
"""
    flow = read_flow_text(text, "f.yaml").flow
    assert flow is not None
    form = normal_form(flow)
    assert form["inputs"] == {
        "big": "9007199254740993",
        "safe": 9007199254740991,
        "low": "-9007199254740993",
        "float": 1e20,
    }
    assert form["budget"] == {"usd": "0.5"}
    assert form["schema"] == "maestro.flow/v1"
    assert flow_digest(flow_from_normal(flow_json(flow))) == flow_digest(flow)
    whole = read_flow_text(text.replace(b"0.50", b'"0.500"'), "f.yaml").flow
    assert whole is not None
    assert flow_digest(whole) == flow_digest(flow)
