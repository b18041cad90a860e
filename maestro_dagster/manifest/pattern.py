r"""Patterns of JSON Schema (ECMA-262, Unicode mode) as patterns of Python's `re`.

The two differ in what `$`, `\d` and `\w` mean, and Python knows no `\p{...}`. Of the properties the
general categories are known (`\p{L}`, `\p{Letter}`, `\p{gc=Lu}`), no scripts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_CATEGORIES: Mapping[str, str] = {
    "Letter": "L", "Cased_Letter": "LC", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt", "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M",
    "Nonspacing_Mark": "Mn", "Spacing_Mark": "Mc", "Enclosing_Mark": "Me", "Number": "N",
    "Decimal_Number": "Nd", "digit": "Nd", "Letter_Number": "Nl", "Other_Number": "No",
    "Punctuation": "P", "punct": "P", "Connector_Punctuation": "Pc", "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps", "Close_Punctuation": "Pe", "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf", "Other_Punctuation": "Po", "Symbol": "S", "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc", "Modifier_Symbol": "Sk", "Other_Symbol": "So", "Separator": "Z",
    "Space_Separator": "Zs", "Line_Separator": "Zl", "Paragraph_Separator": "Zp", "Other": "C",
    "Control": "Cc", "cntrl": "Cc", "Format": "Cf", "Surrogate": "Cs", "Private_Use": "Co",
    "Unassigned": "Cn",
}  # fmt: skip
_TOKEN = re.compile(
    r"\\(?P<negated>[pP])\{(?:(?:gc|General_Category)=)?(?P<property>[A-Za-z_]+)\}"
    r"|\\u\{(?P<code>[0-9a-fA-F]+)\}|\\c(?P<control>[A-Za-z])|\\(?P<escape>.)|(?P<plain>.)",
    re.DOTALL,
)
_SPACE = r"\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CLASSES: Mapping[str, str] = {"d": "0-9", "w": "A-Za-z0-9_", "s": _SPACE}
_SUBSCHEMAS = ("additionalProperties", "unevaluatedProperties", "items", "unevaluatedItems", "contains",
               "not", "if", "then", "else", "propertyNames", "contentSchema")  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def translate_schema(schema: Any) -> Any:
    """A copy of a schema whose patterns mean to Python's `re` what they mean to JSON Schema."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    if isinstance(copy.get("pattern"), str):
        copy["pattern"] = translate_pattern(copy["pattern"])
    for word in _SUBSCHEMAS:
        if word in copy:
            copy[word] = translate_schema(copy[word])
    for word in _LISTS:
        if isinstance(copy.get(word), list):
            copy[word] = [translate_schema(each) for each in copy[word]]
    for word in _MAPS:
        if isinstance(copy.get(word), dict):
            copy[word] = {key: translate_schema(each) for key, each in copy[word].items()}
    if isinstance(copy.get("patternProperties"), dict):
        copy["patternProperties"] = {
            translate_pattern(key): each for key, each in copy["patternProperties"].items()
        }
    return copy


@lru_cache(maxsize=1024)
def translate_pattern(pattern: str) -> str:
    """The pattern for Python. Raises ValueError for a property that is not known."""
    parts: list[str] = []
    in_class = False
    for match in _TOKEN.finditer(pattern):
        plain = match.group("plain")
        if plain is None:
            parts.append(_escape(match, in_class=in_class))
        elif in_class:
            in_class = plain != "]"
            parts.append("\\[" if plain == "[" else plain)
        else:
            in_class = plain == "["
            parts.append(r"\Z" if plain == "$" else plain)
    return "".join(parts)


def _escape(match: re.Match[str], *, in_class: bool) -> str:
    if match.group("property"):
        ranges = _ranges(match.group("property"))
        return _as_class(ranges, negated=match.group("negated") == "P", in_class=in_class)
    if match.group("code"):
        return re.escape(chr(int(match.group("code"), 16)))
    if match.group("control"):
        return re.escape(chr(ord(match.group("control")) % 32))
    letter = match.group("escape")
    if letter.lower() in _CLASSES:
        ranges = _CLASSES[letter.lower()]
        return _as_class(ranges, negated=letter.isupper(), in_class=in_class)
    return f"\\{letter}" if letter in "bBfnrtvux0123456789k" or not letter.isalnum() else letter


def _as_class(ranges: str, *, negated: bool, in_class: bool) -> str:
    if not in_class:
        return f"[{'^' if negated else ''}{ranges}]"
    return _complement(ranges) if negated else ranges


@lru_cache(maxsize=64)
def _complement(ranges: str) -> str:
    inside = re.compile(f"[{ranges}]")
    return _join([code for code in range(sys.maxunicode + 1) if not inside.match(chr(code))])


@lru_cache(maxsize=64)
def _ranges(name: str) -> str:
    import unicodedata

    short = _CATEGORIES.get(name, name)
    wanted = ("Lu", "Ll", "Lt") if short == "LC" else (short,)
    if short not in _CATEGORIES.values():
        raise ValueError(f"the pattern asks for the property {name!r}, which is not known here")
    codes = range(sys.maxunicode + 1)
    return _join([code for code in codes if unicodedata.category(chr(code)).startswith(wanted)])


def _join(codes: list[int]) -> str:
    """Code points, ascending, as ranges of a class."""
    parts: list[str] = []
    start = before = -1
    for code in [*codes, sys.maxunicode + 2]:
        if code != before + 1:
            if start >= 0:
                parts.append(f"\\U{start:08x}-\\U{before:08x}")
            start = code
        before = code
    return "".join(parts)
