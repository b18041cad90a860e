"""Money, canonical JSON, the graph, the frozen table of defaults."""

from __future__ import annotations

import pickle

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest import normal
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.manifest.diagnostic import Diagnostic, refusal
from maestro_dagster.manifest.graph import (
    ancestors,
    dependents,
    descendants,
    find_cycle,
    topological_order,
)
from maestro_dagster.manifest.model import Budget, Flow, Param, Resources, Task, Trigger
from maestro_dagster.manifest.money import format_nano, money_text, parse_budget, parse_usd

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


def flow(**needs: list[str]) -> Flow:
    tasks = [{"id": step, "uses": "pkg:http/get@1.0.0", "needs": wanted} for step, wanted in needs.items()]
    return Flow.model_validate({"name": "abc", "version": "1.0.0", "tasks": tasks})


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0", 0), ("0.50", 500_000_000), ("1.5", 1_500_000_000), ("0.000000001", 1), ("99", 99 * 10**9)],
)  # fmt: skip
def test_money(text: str, nano: int) -> None:
    assert parse_usd(text) == nano
    assert parse_usd(format_nano(nano)) == nano


@given(st.integers(0, 10**21 - 1))
@settings(max_examples=100, derandomize=True)
def test_money_there_and_back(nano: int) -> None:
    assert parse_usd(format_nano(nano)) == nano


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", ".5", "1.", "1.0000000001", "1,5", "$1", " 1", "1234567890123", "\u0661"]
)
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="amount"):
        parse_usd(text)


def test_budgets_of_the_command_line_and_of_files() -> None:
    assert parse_budget("5usd") == parse_budget(" 5.00 USD ") == 5 * 10**9
    with pytest.raises(ManifestError):
        parse_budget("5eur")
    assert [money_text(each) for each in (5, 0.5, "0.50", 1e-9, 12.25)] == [
        "5",
        "0.5",
        "0.5",
        "0.000000001",
        "12.25",
    ]
    assert money_text(True) is True
    assert money_text(1e-10) == 1e-10
    assert money_text(123456789.123456789) == 123456789.123456789, "more digits than a double is sure of"
    assert format_nano(-5) == "-0.000000005"


@given(JSON)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_canonical_json_is_rfc_8785(value: object) -> None:
    try:
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]
    except rfc8785.CanonicalizationError:
        with pytest.raises(ManifestError):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800", {"\ud800": 1}, 2**53, {1: 2}, {"a": {1}}]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        canonical_json(value)
    assert caught.value.error_code == "canonical-json"


def test_known_canonical_bytes() -> None:
    value = {
        "€": '\x0f\n"\\',
        "\r": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000001, -0.0],
        "1": None,
        "\U0001f600": 1,
        "\ufb33": 2,
    }
    expected = (
        '{"\\r":[333333333.3333333,1e+30,4.5,0.002,0.000001,0],"1":null,'
        '"€":"\\u000f\\n\\"\\\\","\U0001f600":1,"\ufb33":2}'
    )
    assert canonical_json(value).decode() == expected
    # Without a float the quicker encoder is tempting; it would sort these two keys the other way.
    assert canonical_json({"\U0001f600": 1, "\ufb33": 2}).decode() == '{"\U0001f600":1,"\ufb33":2}'
    assert digest_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_order_is_by_need_then_as_declared() -> None:
    graph = flow(d=["b", "c"], c=["a"], b=["a"], a=[], z=[])
    assert topological_order(graph) == ("a", "c", "b", "d", "z")
    assert dependents(graph) == {"a": ("c", "b"), "b": ("d",), "c": ("d",), "d": (), "z": ()}
    assert topological_order(flow(b=["a", "a"], a=[])) == ("a", "b")
    assert ancestors(graph, "d") == {"a", "b", "c"}
    assert descendants(graph, "a") == {"b", "c", "d"}


def test_cycles_are_paths() -> None:
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ("b", "c", "b")
    assert find_cycle({"a": ["a"]}) == ("a", "a")
    assert find_cycle({"a": ["b"], "b": ["x"]}) is None
    with pytest.raises(ManifestError, match="a -> c -> b -> a") as caught:
        topological_order(flow(a=["c"], b=["a"], c=["b"]))
    assert caught.value.error_code == "cycle"


def test_ten_thousand_steps_in_a_row() -> None:
    long = flow(**{f"s{n}": [f"s{n + 1}"] if n < 9_999 else [] for n in range(10_000)})
    assert topological_order(long)[0] == "s9999"
    ring = {str(n): [str((n + 1) % 10_000)] for n in range(10_000)}
    assert len(find_cycle(ring) or ()) == 10_001


@pytest.mark.parametrize(
    ("model", "table"),
    [
        (Flow, normal.FLOW_DEFAULTS),
        (Task, normal.TASK_DEFAULTS),
        (Param, normal.PARAM_DEFAULTS),
        (Trigger, normal.TRIGGER_DEFAULTS),
        (Budget, normal.BUDGET_DEFAULTS),
        (Resources, normal.RESOURCES_DEFAULTS),
    ],
)
def test_every_optional_field_has_its_frozen_default(model: type[Flow], table: dict[str, object]) -> None:
    optional = {field.alias or name for name, field in model.model_fields.items() if not field.is_required()}
    assert set(table) == optional


def test_the_frozen_digest() -> None:
    """Signed flows depend on this value: if it moves, old evidence no longer matches its flow."""
    text = {"name": "abc", "version": "1.0.0", "on": ["push"], "budget": {"usd": 0.5}, "tasks": [
        {"id": "b", "uses": "pkg:http/get@1.0.0", "needs": ["a"], "with": {"x": [1, 0.1, "é"]}},
        {"id": "a", "uses": "pkg:feed/parse@1.0.0", "retries": 0},
    ]}  # fmt: skip
    assert normal.flow_json(Flow.model_validate(text)).decode() == (
        '{"budget":{"usd":"0.5"},"name":"abc","on":[{"event":"push"}],"schema":"maestro.flow/v1","tasks":'
        '[{"id":"a","uses":"pkg:feed/parse@1.0.0"},{"id":"b","needs":["a"],"uses":"pkg:http/get@1.0.0",'
        '"with":{"x":[1,0.1,"é"]}}],"version":"1.0.0"}'
    )


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (b"", "normal-form"),
        (b"[]", "normal-form"),
        (b"[" * 100_000, "normal-form"),
        (b'{"schema": "maestro.flow/v2"}', "schema-version"),
        (b"{}", "schema-version"),
        (b'{"schema": "maestro.flow/v1", "name": "abc"}', "normal-form"),
    ],
)
def test_what_is_no_normal_form_is_refused(form: bytes, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        normal.flow_from_normal(form)
    assert caught.value.error_code == code


def test_a_refusal_keeps_its_diagnostics_across_processes() -> None:
    found = (Diagnostic("f", 1, 2, "a", "error", "m", "r"), Diagnostic("f", 3, 4, "b", "error", "n", "s"))
    error = pickle.loads(pickle.dumps(refusal(found)))  # noqa: S301 - our own bytes
    assert error.diagnostics == found
    assert str(error) == "m (and 1 more); at f:1:2; r"
    assert error.error_code == "a"
