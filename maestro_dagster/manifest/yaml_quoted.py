"""What stands between quotes in the everyday part of YAML."""

from __future__ import annotations

import re
import sys

from maestro_dagster.manifest.document import join_surrogates

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip


class UnsupportedError(Exception):
    """The text is not in this part of YAML. Always caught: the general reader takes over."""


def fold(text: str, indent: int) -> str:
    """A quoted text over several lines: one line break is a space, each blank line a line break.

    Lines that are not indented deeper than `indent`, and escapes at either end of a line, are doubtful.
    """
    first, *middle, last = text.split("\n")
    parts = [first.rstrip(" ")]
    blanks = 0
    for line in middle:
        part = line.strip(" ")
        if part:
            _check_line(line, parts[-1], indent)
            parts += ["\n" * blanks or " ", part]
            blanks = 0
        else:
            blanks += 1
    _check_line(last, parts[-1], indent)
    return "".join([*parts, "\n" * blanks or " ", last.lstrip(" ")])


def _check_line(line: str, before: str, indent: int) -> None:
    part = line.lstrip(" ")
    if len(line) - len(part) <= max(indent, 0) or part.startswith("\\") or before.endswith("\\"):
        raise UnsupportedError


def unescape(text: str, at: int) -> str:
    """The text between double quotes with its escapes replaced."""

    def replace(match: re.Match[str]) -> str:
        code = match.group(1) or match.group(2) or match.group(3)
        if code is None:
            if match.group(4) not in _ESCAPES:
                raise UnsupportedError
            return _ESCAPES[match.group(4)]
        if int(code, 16) > sys.maxunicode:
            raise UnsupportedError
        return chr(int(code, 16))

    return join_surrogates(_ESCAPE.sub(replace, text), at)
