"""Expressions are looked up, never evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest.expression import (
    Reference,
    evaluate_condition,
    parse_template,
    references,
    resolve,
)

SCOPE: dict[str, Any] = {
    "params": {"n": 3, "text": "x", "flag": False, "none": None, "map": {"a b": [1, {"c": 2}]}},
    "steps": {
        "scrape-docs": {"output": {"pages": [{"url": "u"}]}, "digest": "sha256:0", "status": "done"},
        "1st": {"output": None, "status": "skipped"},
    },
    "git": {"sha": "abc"},
    "run": {"id": "r1"},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("${{ params.n }}", 3),
        ("${{params.n}}", 3),
        ("n=${{ params.n }}!", "n=3!"),
        ("${{ params.none }}|", "|"),
        ("${{ params.flag }}|", "false|"),
        ("${{ params.map }} ", '{"a b":[1,{"c":2}]} '),
        ("${{ params.map['a b'][1].c }}", 2),
        ("${{ steps.scrape-docs.output.pages[0].url }}", "u"),
        ("${{ steps.1st.output.deep.down }}", None),
        ("${{ steps.1st.status }}", "skipped"),
        ("${{ '${{ literal }}' }}", "${{ literal }}"),
        ("${{ 'it''s' }}", "it's"),
        ("${{ params.flag || 'default' }}", "default"),
        ("${{ params.n && params.text }}", "x"),
        ("${{ -1.5e1 }}", -15.0),
        ({"a": ["${{ run.id }}", 1]}, {"a": ["r1", 1]}),
    ],
)
def test_resolve(value: Any, expected: Any) -> None:
    found = resolve(value, SCOPE)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("true", True),
        ("${{ true }}", True),
        ("params.n == 3", True),
        ("params.n == 3.0", True),
        ("params.n == '3'", False),
        ("params.flag == 0", False),
        ("true == 1", False),
        ("params.n != 4", True),
        ("params.n >= 3 && params.n <= 3 && !(params.n < 3) && !(params.n > 3)", True),
        ("params.text < 'y'", True),
        ("!params.flag", True),
        ("params.none == null", True),
        ("params.flag || params.n > 5 || params.text == 'x'", True),
        ("true || params.missing", True),
        ("false && params.missing", False),
        ("steps.scrape-docs.status == 'done'", True),
        ("params.map == params.map", True),
        ("''", False),
        ("0", False),
        ("1 == 1 && 2 == 3 || true", True),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    assert evaluate_condition(condition, SCOPE) is holds


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("${{ }}", "expression"),
        ("${{ params.n", "expression"),
        ("${{ params. }}", "expression"),
        ("${{ params..n }}", "expression"),
        ("${{ params[n] }}", "expression"),
        ("${{ params[-1] }}", "expression"),
        ("${{ a b }}", "expression"),
        ("${{ (params.n }}", "expression"),
        ("${{ params.n) }}", "expression"),
        ("${{ 1 + 1 }}", "expression"),
        ("${{ 1 == 1 == 1 }}", "expression"),
        ("${{ __import__('os').system('id') }}", "expression"),
        ("${{ params.n; 1 }}", "expression"),
        ('${{ "double" }}', "expression"),
        ("${{ 'open }}", "expression"),
        ("${{ " + "(" * 100 + "1" + ")" * 100 + " }}", "expression"),
        ("${{ " + "!" * 3000 + "1 }}", "expression"),
        ("${{ '" + "x" * 5000 + "' }}", "expression"),
        ("${{ params.missing }}", "expression-unknown"),
        ("${{ params.map['a b'][9] }}", "expression-unknown"),
        ("${{ params.text[0] }}", "expression-unknown"),
        ("${{ params.__class__ }}", "expression-unknown"),
        ("${{ nothing }}", "expression-unknown"),
        ("${{ params.n < 'x' }}", "expression-type"),
        ("${{ params.flag < 1 }}", "expression-type"),
        ("${{ params.map > 1 }}", "expression-type"),
    ],
)
def test_refused(value: str, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        resolve(value, SCOPE)
    assert caught.value.error_code == code


def test_hostile_texts_take_no_time() -> None:
    for text in ("${{ " + "''" * 20_000, "${{ " + "'" * 30_001 + "}}", "${{ " * 10_000, "}" * 60_000):
        try:
            parse_template(text)
        except ManifestError as error:
            assert error.error_code == "expression"  # noqa: PT017 - some of these texts are no expressions


def test_a_message_shows_no_value() -> None:
    with pytest.raises(ManifestError) as caught:
        resolve("${{ params.text < 1 }}", {"params": {"text": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_references() -> None:
    found = references(
        {"a": ["${{ params.n == steps.a-1.output['x y'][0] }} ${{ 'params.no' }}"], "b": "params.no"}
    )
    assert {str(each) for each in found} == {"params.n", "steps.a-1.output['x y'][0]"}
    assert {each.step for each in found} == {None, "a-1"}
    assert Reference(("steps", "x")).step == "x"
