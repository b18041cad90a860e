"""Strict JSON: what the standard library lets through is refused, with a place."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.manifest.document import DocumentError, decode, offset_of, plain
from maestro_dagster.manifest.json_document import parse_json

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(), inner, max_size=5)),
    max_leaves=20,
)


def holds_infinity(value: object) -> bool:
    if isinstance(value, dict | list):
        return any(map(holds_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_the_standard_library_writes_is_read_alike(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if holds_infinity(value):
        with pytest.raises(DocumentError):
            parse_json(text)
    else:
        assert plain(parse_json(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        ("", "json-syntax", 0),
        ("nul", "json-syntax", 0),
        ("NaN", "json-syntax", 0),
        ("[1, -Infinity]", "json-syntax", 4),
        ("[1,]", "json-syntax", 3),
        ('{"a": 1,}', "json-syntax", 8),
        ("{'a': 1}", "json-syntax", 1),
        ('{"a" 1}', "json-syntax", 5),
        ('{"a": 1} x', "json-syntax", 9),
        ('{"a": 1, "a": 2}', "duplicate-key", 9),
        ('{"a": {"b": 1, "\\u0062": 2}}', "duplicate-key", 15),
        ('["\\ud800"]', "lone-surrogate", 1),
        ('["\\udc00\\ud800"]', "lone-surrogate", 1),
        ('["a\tb"]', "json-syntax", 3),
        ('["abc', "json-syntax", 1),
        ("[01]", "json-syntax", 1),
        ("[1.]", "json-syntax", 1),
        ("[+1]", "json-syntax", 1),
        ("[1e999]", "number-range", 1),
        ("[" + "9" * 5000 + "]", "number-range", 1),
        ("[" * 100_000, "too-deep", 64),
        ('{"a":' * 100_000, "too-deep", 320),
        ("[1, 2", "json-syntax", 0),
        ("[1 2]", "json-syntax", 3),
    ],
)
def test_refused(text: str, code: str, offset: int) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_json(text)
    assert (caught.value.code, caught.value.offset) == (code, offset)
    assert caught.value.message
    assert caught.value.remedy


def test_surrogate_pairs_and_places() -> None:
    tree = parse_json('{"a": [1, {"b": "\\ud83d\\ude00"}]}')
    assert tree == {"a": [1, {"b": "\U0001f600"}]}
    assert offset_of(tree, ("a", 1, "b")) == 16
    assert offset_of(tree, ("a", 1, "b"), of_key=True) == 11


@pytest.mark.parametrize(
    "data", [b"\xff\xfe{\x00}\x00", b"{\xe9}", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb"]
)
def test_what_is_not_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError) as caught:
        decode(data)
    assert caught.value.code == "encoding"


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode(b"\xef\xbb\xbf{}") == "{}"
