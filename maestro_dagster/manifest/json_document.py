"""Strict JSON (RFC 8259) into a tree that knows its places.

Stricter than the standard library: no NaN or Infinity, no repeated keys, no lone surrogates, no
number that a double cannot hold, bounded depth; never a RecursionError.
"""

from __future__ import annotations

import math
import re
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs; in C where possible
from typing import Any

from maestro_dagster.manifest.document import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    DocumentError,
    Map,
    Seq,
    join_surrogates,
)

REMEDY = "Keys and texts stand in double quotes; commas stand between values, none after the last."
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_+.\-]+")
_WORDS = {"true": True, "false": False, "null": None}
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str) -> Any:
    """The tree of one JSON text. Raises DocumentError with the offset of the first fault."""
    parser = _Parser(text)
    value, end = parser.value(parser.skip(0), 0)
    end = parser.skip(end)
    if end < len(text):
        raise parser.refuse(
            end, "there is more text after the end of the value", "Keep one JSON value a file."
        )
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes = 0

    def skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def refuse(self, at: int, message: str, remedy: str = REMEDY) -> DocumentError:
        return DocumentError("json-syntax", message, at, remedy)

    def found(self, at: int) -> str:
        return repr(self.text[at]) if at < len(self.text) else "the end of the text"

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError(
                "too-large", f"the text has more than {MAX_NODES} values", at, "Split the flow."
            )
        letter = self.text[at : at + 1]
        if letter == '"':
            return self.string(at)
        if letter in ("{", "["):
            if depth >= MAX_DEPTH:
                raise DocumentError(
                    "too-deep", f"values are nested deeper than {MAX_DEPTH}", at, "Flatten them."
                )
            return self.object(at, depth + 1) if letter == "{" else self.array(at, depth + 1)
        return self.word(at)

    def string(self, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            raise self.refuse(error.pos, f"a text is wrong: {error.msg.lower()}") from None
        if _SURROGATE.search(value):
            value = join_surrogates(value, at)
        return value, end

    def word(self, at: int) -> tuple[Any, int]:
        match = _WORD.match(self.text, at)
        if match is None:
            raise self.refuse(at, f"a value is wanted, {self.found(at)} stands here")
        word = match.group()
        if word in _WORDS:
            return _WORDS[word], match.end()
        number = _NUMBER.fullmatch(word)
        if number is None:
            shown = word[:40]
            raise self.refuse(at, f"`{shown}` is no JSON value", "Texts stand in double quotes.")
        return self.number(word, is_float=bool(number.group(1) or number.group(2)), at=at), match.end()

    def number(self, word: str, *, is_float: bool, at: int) -> int | float:
        value = float(word) if is_float else int(word) if len(word) <= MAX_DIGITS else math.inf
        if isinstance(value, float) and not math.isfinite(value):
            raise DocumentError(
                "number-range", "the number is too large", at, "Write it as a text, in quotes."
            )
        return value

    def array(self, start: int, depth: int) -> tuple[Seq, int]:
        result = Seq(start)
        at = self.skip(start + 1)
        if self.text.startswith("]", at):
            return result, at + 1
        while True:
            value, end = self.value(at, depth)
            result.put(value, at)
            at = self.skip(end)
            if self.text.startswith("]", at):
                return result, at + 1
            at = self.skip(self.comma(at, "]", start))

    def object(self, start: int, depth: int) -> tuple[Map, int]:
        result = Map(start)
        at = self.skip(start + 1)
        if self.text.startswith("}", at):
            return result, at + 1
        while True:
            if not self.text.startswith('"', at):
                raise self.refuse(at, f"a key in double quotes is wanted, {self.found(at)} stands here")
            key_at = at
            key, at = self.string(at)
            if key in result:
                raise duplicate_key(key, key_at)
            at = self.skip(at)
            if not self.text.startswith(":", at):
                raise self.refuse(
                    at, f"`:` is wanted after the key {key[:40]!r}, {self.found(at)} stands here"
                )
            at = self.skip(at + 1)
            value, end = self.value(at, depth)
            result.put(key, value, key_at, at)
            at = self.skip(end)
            if self.text.startswith("}", at):
                return result, at + 1
            at = self.skip(self.comma(at, "}", start))

    def comma(self, at: int, closing: str, start: int) -> int:
        if at >= len(self.text):
            raise self.refuse(start, f"this `{self.text[start]}` is never closed", f"Add `{closing}`.")
        if self.text[at] != ",":
            raise self.refuse(at, f"`,` or `{closing}` is wanted, {self.found(at)} stands here")
        return at + 1


def duplicate_key(key: str, at: int) -> DocumentError:
    return DocumentError(
        "duplicate-key", f"the key `{key[:60]}` stands here a second time", at, "Keep one of them."
    )
