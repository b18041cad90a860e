"""Names that Dagster accepts for ops, outputs, checks and jobs (`^[A-Za-z0-9_]+$`), made injectively.

Dagster turns `-` into `_` itself, so the ids `a-b` and `a_b` would collide. Here `_` starts an escape:
`__` is `-`, `_0` is `_`, `_x<hex>_` is any other character, and a trailing `_1` keeps clear of the
names that Dagster reserves. `python-release` reads `python__release`.
"""

from __future__ import annotations

import keyword
import re

# Dagster's own list (`DISALLOWED_NAMES`) and its default output's name.
_RESERVED = frozenset(
    {
        "arg_dict", "bool", "conf", "config", "context", "dict", "float", "input", "input_arg_dict", "int",
        "meta", "output", "output_arg_dict", "result", "str", "type", *keyword.kwlist,
    }
)  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9]")
_ESCAPED = re.compile(r"_(_|0|1$|x[0-9a-f]+_)")


def encode_name(text: str) -> str:
    """A name for Dagster; different texts give different names.

    >>> encode_name("a-b"), encode_name("a_b"), encode_name("input")
    ('a__b', 'a_0b', 'input_1')
    """
    name = "".join(map(_encode_character, text))
    return f"{name}_1" if name in _RESERVED or not name else name


def decode_name(name: str) -> str:
    """The text behind an encoded name."""
    return _ESCAPED.sub(lambda found: _decode_escape(found[1]), name)


def _encode_character(character: str) -> str:
    if _PLAIN.match(character):
        return character
    return {"-": "__", "_": "_0"}.get(character) or f"_x{ord(character):x}_"


def _decode_escape(escape: str) -> str:
    if escape.startswith("x"):
        return chr(int(escape[1:-1], 16))
    return {"_": "-", "0": "_", "1": ""}[escape]


def free_name(wanted: str, taken: frozenset[str] | set[str]) -> str:
    """`wanted`, or with the first number that makes it differ from every name in `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name
