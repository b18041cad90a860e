"""A document as YAML that every reader understands alike: what YAML 1.1 would misread is quoted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# Texts that need no quotes in any reader: no indicator, no number, no word of YAML 1.1.
_BARE = re.compile(r"[A-Za-z_./$][A-Za-z0-9_./@+~$-]*(?::[A-Za-z0-9_./@+~$-]+)*(?: [A-Za-z0-9_./@+~$-]+)*")
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:-[a-z0-9.]+)?")
_WORDS = frozenset(
    ["true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan", "nan", "inf"]
)
_NUMBER_LIKE = re.compile(r"[.+-]?[0-9._]+(?:[eE][+-]?[0-9]+)?")
_UNSAFE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
# A text that a `|` block holds unchanged: printable lines, none blank first, one line break at the end.
_BLOCK = re.compile(
    "[^\\s\x00-\x1f][^\x00-\x09\x0b-\x1f\x7f-\xa0\u2000-\u2069\ud800-\udfff\ufeff\ufffe\uffff]*"
)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./@-]*")


def write_yaml(document: dict[str, Any]) -> str:
    """Block style, two spaces, keys in the order given; short lists of texts on one line."""
    return "\n".join(_map(document, 0)) + "\n"


def _map(value: dict[str, Any], indent: int) -> Iterator[str]:
    for key, each in value.items():
        yield from _entry(" " * indent + _key(key) + ":", each, indent)


def _entry(head: str, value: Any, indent: int) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield head
        yield from _map(value, indent + 2)
    elif isinstance(value, list) and value and not _fits_one_line(value):
        yield head
        for each in value:
            yield from _item(each, indent + 2)
    elif isinstance(value, str) and "\n" in value and _is_block(value):
        yield f"{head} |"
        for line in value[:-1].split("\n"):
            yield " " * (indent + 2) + line if line else ""
    else:
        yield f"{head} {_inline(value)}"


def _item(value: Any, indent: int) -> Iterator[str]:
    dash = " " * indent + "- "
    if isinstance(value, dict) and value:
        lines = _map(value, indent + 2)
        yield dash + next(lines)[indent + 2 :]
        yield from lines
    elif isinstance(value, list) and value and not _fits_one_line(value):
        yield dash.rstrip()
        for each in value:
            yield from _item(each, indent + 2)
    else:
        yield dash + _inline(value)


def _fits_one_line(value: list[Any]) -> bool:
    longest = 90
    return all(not isinstance(each, dict | list) for each in value) and len(_inline(value)) <= longest


def _is_block(value: str) -> bool:
    body = value[:-1]
    return (
        value.endswith("\n")
        and not body.endswith("\n")
        and _BLOCK.fullmatch(body) is not None
        and not any(line.endswith(" ") for line in body.split("\n"))
    )


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, str):
        return value if is_bare(value) else quote(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_inline(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def is_bare(text: str) -> bool:
    """Whether a text may stand without quotes."""
    if _VERSION.fullmatch(text):
        return True
    return (
        _BARE.fullmatch(text) is not None
        and text.casefold() not in _WORDS
        and _NUMBER_LIKE.fullmatch(text) is None
        and not text.startswith("---")
        and text not in (".", "..", "...")
    )


def quote(text: str) -> str:
    """The text in double quotes; what is invisible stands as an escape."""
    return _UNSAFE.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _key(key: str) -> str:
    return key if _KEY.fullmatch(key) and (key.casefold() not in _WORDS or key == "on") else quote(key)
