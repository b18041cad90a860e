"""Plain scalars of the YAML 1.2 core schema: `on`, `NO`, `2024-01-01` and `12:30` are texts."""

from __future__ import annotations

import math
import re

from maestro_dagster.manifest.document import MAX_DIGITS, DocumentError

Scalar = str | int | float | bool | None

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER = re.compile(
    r"(?P<int>[-+]?[0-9]+)|(?P<octal>0o[0-7]+)|(?P<hex>0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<none>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_NUMBER_STARTS = frozenset("-+.0123456789")
_BASES = {"int": 10, "octal": 8, "hex": 16}


def resolve_plain(text: str, at: int) -> Scalar:
    """The value of an unquoted scalar. Raises DocumentError for numbers that JSON cannot hold."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    kind = str(match.lastgroup)
    if kind in _BASES and len(text) <= MAX_DIGITS:
        return int(text[2:] if kind in ("octal", "hex") else text, _BASES[kind])
    value = float(text) if kind == "float" else math.inf
    if not math.isfinite(value):
        raise DocumentError(
            "number-range",
            f"`{text[:40]}` is no number that JSON can hold",
            at,
            "Write it in quotes if it is a text.",
        )
    return value
