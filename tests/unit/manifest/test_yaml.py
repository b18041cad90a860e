"""The short way through YAML agrees with the general parser, and both say where a fault is."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from maestro_dagster.manifest.document import DocumentError, Map, Seq, offset_of
from maestro_dagster.manifest.yaml_document import parse_full_yaml, parse_yaml
from maestro_dagster.manifest.yaml_plain import parse_plain_yaml
from maestro_dagster.manifest.yaml_quoted import UnsupportedError

SOAK = os.environ.get("MAESTRO_SOAK") == "1"

# Pieces that meet in real files, and pieces that are only there to trip a reader.
_VALUES = [
    "a", "1", "-1", "1.5", "true", "~", "", "a b", "a: b", "a # c", "a#c", "a:b",
    "http://x.y/z?q=1&r=#f", "'it''s'", '"q\\n\\u00e9"', '"a" # c', "'x' y", '"open', "[a, b]",
    "[a, [b, {c: d}]]", "{a: 1, b: 'x, y'}", "{a: , b: }", "{a, b}", "[a: b]", "{a:1}", '{"a":1}', "[",
    "{a: [1,\n      2]}", "[a,\nb]", "|", "|-", ">", "|\n    x\n     y\n", "&a x", "*a", "!t x", "- x",
    "? x", "@x", "`x`", "%x", "-", "--- x", "é", "1_000", "0o7", "0x1f", "1e3", ".5", "+1", "<<", "a,b",
    "(a)", "=", "x -", "a  b ", "12:30:45", "2024-01-01", "a\\b", "$x", "${{ a }}", "{x: ${{ a }}}", "^",
]  # fmt: skip
_KEYS = ["a", "b", "c", "on", "x-y", "1", "'k'", '"k"', "a b", "<<", "é", "a.b/c@d", "", "?", "null"]
_ODD = [
    "",
    "# c",
    "-",
    "- - a",
    "---",
    "...",
    "a",
    "  ",
    "a:",
    "- a:",
    "\t",
    "k:\t1",
    "%YAML 1.2",
    "{a: 1,",
    "b: [2]}",
    "[a,",
    "b]",
]
_FORMS = ("{key}: {value}", "{key}: {value}", "- {value}", "- {key}: {value}", "{odd}")


def some_yaml(choose: random.Random) -> str:
    """A few lines that often are YAML."""
    indent, lines = 0, []
    for _ in range(choose.randint(1, 6)):
        indent = max(0, indent + choose.choice([-1, 0, 0, 0, 1, 1]))
        key, value, odd = choose.choice(_KEYS), choose.choice(_VALUES), choose.choice(_ODD)
        lines.append("  " * indent + choose.choice(_FORMS).format(key=key, value=value, odd=odd))
    return "\n".join(lines) + choose.choice(["", "\n"])


def places(tree: Any) -> Any:
    """A tree with the offsets of all its parts, to compare two readers by."""
    if isinstance(tree, Map):
        return {key: (tree.key_at[key], tree.value_at[key], places(value)) for key, value in tree.items()}
    if isinstance(tree, Seq):
        return [(at, places(value)) for at, value in zip(tree.item_at, tree, strict=True)]
    return (type(tree).__name__, tree)


def test_the_short_way_agrees_with_the_general_parser() -> None:
    choose = random.Random(20)
    agreed = refused = 0
    for _ in range(500_000 if SOAK else 6_000):
        text = some_yaml(choose)
        try:
            plain = parse_plain_yaml(text)
        except UnsupportedError:
            continue
        except DocumentError:
            refused += 1
            with pytest.raises(DocumentError):
                parse_full_yaml(text)
            continue
        full = parse_full_yaml(text)
        assert _without_empty(places(plain)) == _without_empty(places(full)), text
        agreed += 1
    assert agreed > 400
    assert refused > 20


def _without_empty(tree: Any) -> Any:
    """Where a value is absent (null), its place is a matter of taste."""
    if isinstance(tree, dict):
        return {
            key: (key_at, None if value == ("NoneType", None) else at, _without_empty(value))
            for key, (key_at, at, value) in tree.items()
        }
    if isinstance(tree, list):
        return [(None if value == ("NoneType", None) else at, _without_empty(value)) for at, value in tree]
    return tree


def test_the_everyday_file_takes_the_short_way() -> None:
    text = """\
# a comment
name: sample   # another
description: |
  Two lines
    of text.

tasks:
- id: a
  with: {url: "https://x.y", n: [1, 2,
    3]}
- id: b
  needs: [a]
"""
    assert parse_plain_yaml(text) == {
        "name": "sample",
        "description": "Two lines\n  of text.\n",
        "tasks": [{"id": "a", "with": {"url": "https://x.y", "n": [1, 2, 3]}}, {"id": "b", "needs": ["a"]}],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("12:30:45", "12:30:45"), ("010", 10),
        ("0o17", 15), ("0x1F", 31), ("1e3", 1000.0), ("1_000", "1_000"), ("~", None), ("TRUE", True),
        ("yes", "yes"),
        ("1.", 1.0), (".5", 0.5), ("+1", 1), ("0b1", "0b1"), ("1.10", 1.1), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    for read in (parse_yaml, parse_full_yaml):
        found = read(f"k: {text}\n")["k"]
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: !!str b\n", "yaml-tag"),
        ("a: !x b\n", "yaml-tag"),
        ("a: 1\na: 2\n", "duplicate-key"),
        ('{a: 1, "a": 2}\n', "duplicate-key"),
        ("a: &x 1\nb: *y\n", "yaml-alias"),
        ("a: &x [*x]\n", "yaml-alias-cycle"),
        ("a: &x {k: 1}\nb: {<<: *x}\n", "yaml-merge"),
        ("[a, b]: 1\n", "yaml-key"),
        ("? {a: 1}\n: 2\n", "yaml-key"),
        ("a: 1\n---\nb: 2\n", "yaml-documents"),
        ("a: .inf\n", "number-range"),
        ("a: 1e999\n", "number-range"),
        ("a: " + "9" * 5000 + "\n", "number-range"),
        ("a: \x07\n", "yaml-character"),
        ('a: "\\ud800"\n', "lone-surrogate"),
        ("a: " + "[" * 100 + "]" * 100 + "\n", "too-deep"),
        ("a: &x " + "[" * 100 + "]" * 100 + "\n", "too-deep"),
        ("[" * 60_000, "too-deep"),
        ("- " * 20_000, "too-deep"),
        ("a: {x: ${{ params.y }}}\n", "yaml-expression-unquoted"),
        ("a: [${{ params.y }}]\n", "yaml-expression-unquoted"),
        ("k" * 2000 + ": 1\n", "too-large"),
    ],
)
def test_refused(text: str, code: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert caught.value.code == code
    assert caught.value.remedy


def test_pairs_of_surrogates_become_one_character() -> None:
    assert parse_yaml('a: "\\ud83d\\ude00"\n') == {"a": "\U0001f600"}
    assert parse_full_yaml('a: "\\ud83d\\ude00"\n') == {"a": "\U0001f600"}


def test_aliases_within_bounds_are_values() -> None:
    assert parse_yaml("a: &x [1, {b: 2}]\nc: *x\n") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_places() -> None:
    tree = parse_yaml("a:\n  - b: 1\n    c: x\n")
    assert offset_of(tree, ("a", 0, "c")) == 19
    assert offset_of(tree, ("a", 0, "c"), of_key=True) == 16
    assert offset_of(tree, ("a", 0, "missing")) == 7
    assert offset_of(tree, ()) == 0


def test_texts_over_several_lines_take_the_short_way() -> None:
    text = "e: 'f\n\n  g\n\n\n  '\na: one two\n  three\nb: 'it''s\n  long'\nc: \"q\\t\n  r\" # end\nd: [x]\n"
    expected = {"e": "f\ng\n\n", "a": "one two three", "b": "it's long", "c": "q\t r", "d": ["x"]}
    assert parse_plain_yaml(text) == parse_full_yaml(text) == expected
