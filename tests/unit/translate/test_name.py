from __future__ import annotations

import re

from dagster._core.definitions.utils import DISALLOWED_NAMES
from hypothesis import given
from hypothesis import strategies as st

from maestro_dagster.translate.name import _RESERVED, decode_name, encode_name, free_name

IDS = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)


@given(IDS | st.text(max_size=20))
def test_an_encoded_name_is_accepted_by_dagster_and_decodes_to_its_text(text: str) -> None:
    name = encode_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_]+", name)
    assert name not in DISALLOWED_NAMES
    assert decode_name(name) == text


def test_ids_that_dagster_would_confuse_stay_apart() -> None:
    names = [encode_name(text) for text in ("a-b", "a_b", "a--b", "a__b", "a_-b", "a-_b", "a_0b", "a_1")]
    assert len(set(names)) == len(names)


def test_every_name_that_dagster_reserves_is_known() -> None:
    assert DISALLOWED_NAMES <= _RESERVED
    assert encode_name("input") == "input_1"
    assert decode_name("input_1") == "input"


def test_a_taken_name_gets_a_number() -> None:
    assert free_name("evidence", {"a"}) == "evidence"
    assert free_name("evidence", {"evidence", "evidence-2"}) == "evidence-3"
