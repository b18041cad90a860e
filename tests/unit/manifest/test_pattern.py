"""Patterns mean what JSON Schema says, not what Python's `re` would make of them."""

from __future__ import annotations

import re

import pytest

from maestro_dagster.manifest.pattern import translate_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^\p{Letter}+$", "Helloπ", True),
        (r"^\p{L}+$", "1", False),
        (r"^[\p{Lu}_]+$", "A_Π", True),
        (r"^[\p{Lu}_]+$", "a", False),
        (r"^\P{gc=Nd}$", "x", True),
        (r"^[^\P{L}]$", "x", True),
        (r"^\d$", "\u0661", False),
        (r"^[\d-]+$", "1-2", True),
        (r"^\w$", "é", False),
        (r"^[^\W]$", "é", False),
        (r"^a$", "a\n", False),
        (r"^[$]$", "$", True),
        (r"^\$$", "$", True),
        (r"^[[a]$", "[", True),
        (r"^\u{1f600}$", "\U0001f600", True),
        (r"^\cA$", "\x01", True),
        (r"^\/\-\x41\u0042$", "/-AB", True),
        (r"\s", "\ufeff", True),
    ],
)
def test_patterns(pattern: str, text: str, found: bool) -> None:
    assert bool(re.search(translate_pattern(pattern), text)) is found


def test_unknown_properties_are_refused() -> None:
    with pytest.raises(ValueError, match="Klingon"):
        translate_pattern(r"\p{Klingon}")
