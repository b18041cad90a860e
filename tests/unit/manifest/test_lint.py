"""Findings stand where the fault is, in the words of the dialect that the file is in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest.read import ReadResult, read_flow, read_flow_text
from maestro_dagster.manifest.suggest import nearest

OPTIONAL = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
INTEGERS = {"type": "array", "items": {"type": "integer"}}


class Catalogue:
    """One kind, whose schema the test chooses."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema

    def uses(self) -> list[str]:
        return ["pkg:a/b@1.0.0"]

    def config_schema(self, uses: str) -> dict[str, Any] | None:
        return self.schema if uses == "pkg:a/b@1.0.0" else None

    def is_asset(self, uses: str) -> bool:
        return True


def lint(text: str, name: str = "f.yaml", catalogue: Catalogue | None = None) -> ReadResult:
    return read_flow_text(text.encode(), name, catalogue)


def found(result: ReadResult) -> list[tuple[int, int, str]]:
    return [(each.line, each.column, each.code) for each in result.diagnostics]


def config_findings(schema: dict[str, Any], config: object) -> list[str]:
    tasks = [{"id": "a", "uses": "pkg:a/b@1.0.0", "with": config}]
    text = json.dumps({"name": "abc", "version": "1.0.0", "tasks": tasks})
    return [each.code for each in lint(text, "f.json", Catalogue(schema)).diagnostics]


def test_places_in_the_steps_dialect() -> None:
    result = lint(
        "name: abc\nversion: 1.0.0\nsteps:\n  - id: a\n    uses: http\n    retries: 99\n    colour: red\n"
    )
    assert found(result) == [(6, 14, "bad-value"), (7, 5, "unknown-key")]
    assert result.diagnostics[0].message.startswith("`steps[0].retries`")


def test_places_in_the_nodes_dialect() -> None:
    text = """{"id": "x", "version": "1.0.0",
 "nodes": [{"id": "a", "type": "pkg:nope",
   "output": {"license_class": "GPL"}, "with_": {}}],
 "edges": []}"""
    result = lint(text, "flow.json")
    assert found(result) == [
        (1, 8, "bad-value"),
        (2, 32, "bad-value"),
        (3, 32, "bad-value"),
        (3, 40, "unknown-key"),
    ]
    assert [each.message.split("`")[1] for each in result.diagnostics] == [
        "id", "nodes[0].type", "nodes[0].output.license_class", "nodes[0]",
    ]  # fmt: skip
    assert "`config`" not in result.diagnostics[1].message


def test_names_of_the_model_are_no_keys_of_a_file() -> None:
    for wrong, right in (("with_", "with"), ("if_", "if"), ("timeout_seconds", "timeoutSeconds")):
        text = f"name: abc\nversion: 1.0.0\ntasks: [{{id: a, uses: pkg:a/b@1.0.0, {wrong}: 1}}]\n"
        (finding,) = lint(text).diagnostics
        assert finding.code == "unknown-key"
        assert finding.remedy == f"Did you mean `{right}`?"


def test_a_truth_value_is_no_text() -> None:
    """`contains_pii: no` is a text in YAML 1.2; taken for false it would switch a policy off or on."""
    (finding,) = lint(
        "name: abc\nversion: 1.0.0\ncontains_pii: yes\ntasks: [{id: a, uses: pkg:a/b@1.0.0}]\n"
    ).diagnostics
    assert finding.code == "wrong-type"


@pytest.mark.parametrize(
    ("schema", "config", "expected"),
    [
        ({"properties": {"n": {"type": "integer"}}}, {"n": "${{ run.id }}"}, []),
        ({"properties": {"n": {"type": "integer"}}}, {"n": "5"}, ["config-bad-value"]),
        ({"properties": {"n": {"type": "integer"}}}, {"n": True}, ["config-bad-value"]),
        ({"properties": {"n": OPTIONAL}}, {"n": "${{ run.id }}"}, []),
        ({"properties": {"n": OPTIONAL}}, {"n": "x"}, ["config-bad-value"]),
        ({"properties": {"n": INTEGERS}}, {"n": [1, "${{ run.id }}"]}, []),
        ({"properties": {"n": {"enum": ["a", "b"]}}}, {"n": "c"}, ["config-bad-value"]),
        ({"properties": {"n": {"pattern": "^\\d$"}}}, {"n": "\u0661"}, ["config-bad-value"]),
        ({"properties": {}, "additionalProperties": False}, {"n": 1}, ["config-unknown-key"]),
        ({"properties": {}, "additionalProperties": True}, {"n": 1}, []),
        ({"required": ["n", "m"]}, {}, ["config-missing-key", "config-missing-key"]),
        ({"pattern": "(", "minProperties": 1}, {}, ["config-bad-value"]),
        ({"properties": {"n": {"pattern": "("}}}, {"n": "x"}, ["kind-broken"]),
    ],
)  # fmt: skip
def test_configs(schema: dict[str, Any], config: dict[str, Any], expected: list[str]) -> None:
    assert config_findings({"type": "object", **schema}, config) == expected


def test_a_kind_that_cannot_be_loaded_is_a_finding() -> None:
    class Broken(Catalogue):
        def config_schema(self, uses: str) -> dict[str, Any] | None:
            raise ImportError("no module named x")

    text = "name: abc\nversion: 1.0.0\ntasks: [{id: a, uses: pkg:a/b@1.0.0}]\n"
    assert [each.code for each in lint(text, catalogue=Broken({})).diagnostics] == ["kind-broken"]


def branches(*tasks: dict[str, Any]) -> list[str]:
    cases = [{"equals": 1, "steps": ["one"]}, {"equals": 2, "steps": ["two"]}]
    choose = {"id": "choose", "uses": "pkg:control/branch@1.0.0", "with": {"value": 1, "cases": cases}}
    fixed = [{"id": step, "uses": "pkg:a/b@1.0.0", "needs": ["choose"]} for step in ("one", "two")]
    more = [{"uses": "pkg:a/b@1.0.0", **task} for task in tasks]
    text = json.dumps({"name": "abc", "version": "1.0.0", "tasks": [choose, *fixed, *more]})
    return [each.code for each in lint(text, "f.json").diagnostics]


def test_steps_behind_contradicting_choices_are_unreachable() -> None:
    assert branches({"id": "x", "needs": ["one", "choose"]}) == []
    assert branches({"id": "x", "needs": ["one", "two"]}) == ["unreachable"]
    assert branches({"id": "x", "needs": ["one", "two"], "join": "any"}) == []
    assert branches({"id": "x", "needs": ["one"]}, {"id": "y", "needs": ["two", "x"]}) == ["unreachable"]
    assert branches({"id": "x", "needs": ["one", "two"]}, {"id": "y", "needs": ["x"]}) == ["unreachable"]


def test_lookalikes_and_hidden_characters_are_warnings() -> None:
    text = "name: abc\nversion: 1.0.0\ntasks:\n"
    text += "- {id: step-1, uses: pkg:a/b@1.0.0}\n- {id: step-l, uses: pkg:a/b@1.0.0}\n"
    result = lint(text)
    assert [each.code for each in result.diagnostics] == ["confusable-name"]
    assert result.flow is not None
    result = lint("description: a\u202eb\n" + text.replace("step-l", "other"))
    assert found(result) == [(1, 15, "hidden-character")]
    assert result.flow is not None


def test_ancestors_further_up_may_be_read() -> None:
    tasks = [{"id": "s0", "uses": "pkg:a/b@1.0.0"}]
    tasks += [
        {
            "id": f"s{n}",
            "uses": "pkg:a/b@1.0.0",
            "needs": [f"s{n - 1}"],
            "with": {"x": "${{ steps.s0.digest }}"},
        }
        for n in range(1, 300)
    ]  # type: ignore[list-item]
    tasks.append({"id": "aside", "uses": "pkg:a/b@1.0.0", "if": "steps.s9.status == 'done'"})
    text = json.dumps({"name": "abc", "version": "1.0.0", "tasks": tasks})
    assert [each.code for each in lint(text, "f.json").diagnostics] == ["expression-not-upstream"]


def test_context_and_order_make_needs_in_the_steps_dialect() -> None:
    text = """
name: abc
version: 1.0.0
steps:
  - {id: a, uses: pkg:a/b@1.0.0}
  - {id: b, uses: pkg:a/b@1.0.0}
  - {id: c, uses: pkg:a/b@1.0.0, needs: []}
  - {id: d, uses: llm.plan, with: {context_from: [a, c]}}
  - {id: e, uses: pkg:a/b@1.0.0, context_from: [b], needs: [d]}
"""
    flow = lint(text).flow
    assert flow is not None
    assert {task.id: task.needs for task in flow.tasks} == {
        "a": (), "b": ("a",), "c": (), "d": ("c", "a"), "e": ("d", "b"),
    }  # fmt: skip
    assert flow.task("d").with_ == {}


def test_many_findings_are_cut_short() -> None:
    text = "name: abc\nversion: 1.0.0\ntasks:\n" + "- {id: a, uses: pkg:a/b@1.0.0}\n" * 3000
    result = lint(text)
    assert len(result.diagnostics) == 1001
    assert any(each.code == "too-many-errors" for each in result.diagnostics)


def test_read_flow_raises_with_all_findings(tmp_path: Any) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("name: abc\nversion: 1\ntasks: [{id: a}]\n")
    with pytest.raises(ManifestError) as caught:
        read_flow(path)
    assert [each.code for each in caught.value.diagnostics] == ["wrong-type", "missing-key"]
    assert caught.value.place == f"{path}:2:10"


def test_suggestions_are_bounded() -> None:
    names = [f"step-{number}" for number in range(10_000)]
    assert nearest("stpe-17", ["step-17", "other"]) == "step-17"
    assert nearest("x" * 10_000, names) is None
    assert nearest("step-00", names) is not None
    assert nearest("", names) is None
