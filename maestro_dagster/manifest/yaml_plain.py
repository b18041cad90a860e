"""The everyday part of YAML, read without the general parser: ten times faster, and no import.

Block maps and lists, plain and quoted scalars, `|` texts, flow collections. Whatever else
a line may hold (anchors, tags, folded texts, several documents, anything doubtful or wrong) raises
UnsupportedError, and the general reader has the word. Nothing is guessed: a test compares both.
"""

from __future__ import annotations

import re
from typing import Any

from maestro_dagster.manifest.document import (
    MAX_DEPTH,
    MAX_NODES,
    DocumentError,
    Map,
    Seq,
)
from maestro_dagster.manifest.json_document import duplicate_key
from maestro_dagster.manifest.yaml_quoted import UnsupportedError, fold, unescape
from maestro_dagster.manifest.yaml_scalar import resolve_plain

# Tabs, carriage returns and the line breaks of other worlds are left to the general reader.
_DOUBTFUL_ASCII = re.compile("[^\n\x20-\x7e]")
_DOUBTFUL = "[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_LINE = re.compile(r"( *)([^\n]*)(?:\n|$)")
_PLAIN_KEY = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_./@+-]*) *:(?= |$)", re.MULTILINE)
_QUOTED_KEY = re.compile(r"""("[^"\\\n]*"|'[^'\n]*') *:(?= |$)""", re.MULTILINE)
# A block scalar's text: no `: `, no ` #`, no colon at the end; what may start it is narrow on purpose.
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9_./+~$<=(^\\;]|[^\x00-\x7f]|-(?=[^\s]))(?:[^\n:#]|:(?=[^\s])|(?<=[^\s])#)*"
)
_FLOW_PLAIN = re.compile(
    r"(?:[A-Za-z0-9_./+~$<=(^\\;]|[^\x00-\x7f]|-(?=[^\s,\[\]{}]))"
    r"(?:[^\n:#,\[\]{}]|:(?=[^\s,\[\]{}])|(?<=[^\s])#)*"
)
_FLOW_KEY = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_./@+-]*):(?= |\n)")
_DOUBLE = re.compile(r'"((?:[^"\\\n]++|\\[^\n])*)"')
_SINGLE = re.compile(r"'((?:[^'\n]++|'')*)'(?!')")
_LONG_DOUBLE = re.compile(r'"((?:[^"\\]++|\\[^\n])*)"')
_LONG_SINGLE = re.compile(r"'((?:[^']++|'')*)'(?!')")
_END = re.compile(r" *(?: #[^\n]*)?(?:\n|$)")  # nothing more on this line but a comment
_GAP = re.compile(r"[ \n]*")


def parse_plain_yaml(text: str) -> Any:
    """The tree of one document. Raises UnsupportedError, or DocumentError for a certain fault."""
    if _has_doubtful(text):
        raise UnsupportedError
    reader = _Reader(text)
    value = reader.block(-1, 0)
    if reader.line is not None:
        raise DocumentError(
            "yaml-syntax",
            "this line belongs neither to the list nor to the map above it",
            reader.line[1],
            "Check its indentation; a key needs a `:` behind it, an item a `-` before it.",
        )
    return value


def _has_doubtful(text: str) -> bool:
    if text.isascii():
        return _DOUBTFUL_ASCII.search(text) is not None
    return re.search(_DOUBTFUL, text) is not None  # compiled only here: wide ranges take milliseconds


class _Reader:
    """Holds the line that comes next as (indent, offset of its first letter), or None at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes = 0
        self.next_line = 0
        self.line: tuple[int, int] | None = None
        self.advance()
        if self.line is not None and text.startswith("---\n", self.line[1]) and self.line[0] == 0:
            self.advance()

    def advance(self) -> None:
        """Goes to the next line that is neither blank nor a comment."""
        text, at = self.text, self.next_line
        size = len(text)
        while at < size:
            end = text.find("\n", at)
            end = size if end < 0 else end
            first = at
            while first < end and text[first] == " ":
                first += 1
            if first < end and text[first] != "#":
                marker = first == at and (text.startswith(("---", "..."), at) or text[at] == "%")
                if marker and (at or not text.startswith("---\n")):
                    raise UnsupportedError
                self.line = (first - at, first)
                self.next_line = end + 1
                return
            at = end + 1
        self.next_line = at
        self.line = None

    def count(self, at: int, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError(
                "too-large", f"the text has more than {MAX_NODES} values", at, "Split the flow."
            )
        if depth > MAX_DEPTH:
            raise DocumentError("too-deep", f"values are nested deeper than {MAX_DEPTH}", at, "Flatten them.")

    # -- blocks ---------------------------------------------------------------------------------

    def block(self, parent: int, depth: int) -> Any:
        """The block that starts on the next line and is indented deeper than `parent`."""
        if self.line is None or self.line[0] <= parent:
            return None
        indent, at = self.line
        self.count(at, depth)
        if self._is_item(at):
            return self.sequence(indent, depth)
        if self._key(at) is not None:
            return self.mapping(indent, depth)
        if parent < 0 and self.text[at] in "[{":
            self.nodes -= 1  # `inline` counts it again
            return self.inline(at, -1, depth)
        raise UnsupportedError

    def _is_item(self, at: int) -> bool:
        return self.text[at] == "-" and self.text[at + 1 : at + 2] in (" ", "\n", "")

    def _key(self, at: int) -> re.Match[str] | None:
        letter = self.text[at]
        pattern = _QUOTED_KEY if letter in "\"'" else _PLAIN_KEY
        return pattern.match(self.text, at)

    def sequence(self, indent: int, depth: int) -> Seq:
        assert self.line is not None  # noqa: S101 - the caller looked
        result = Seq(self.line[1])
        while self.line is not None and self.line[0] == indent and self._is_item(self.line[1]):
            start = self.line[1] + 1
            while self.text[start : start + 1] == " ":
                start += 1
            if self.text[start : start + 1] in ("\n", "", "#"):
                self.advance()
                at = self.line[1] if self.line is not None and self.line[0] > indent else start
                result.put(self.block(indent, depth + 1), at)
            elif self._is_item(start) or self._key(start) is not None:
                self.line = (indent + start - self.line[1], start)
                result.put(self.block(indent, depth + 1), start)
            else:
                result.put(self.inline(start, indent, depth + 1), start)
        if self.line is not None and self.line[0] > indent:
            raise UnsupportedError
        return result

    def mapping(self, indent: int, depth: int) -> Map:
        assert self.line is not None  # noqa: S101 - the caller looked
        result = Map(self.line[1])
        while self.line is not None and self.line[0] == indent:
            key_at = self.line[1]
            match = self._key(key_at)
            if match is None:
                if self._is_item(key_at):
                    return result  # a list beside its key: the enclosing list goes on
                raise UnsupportedError
            key = match.group(1)
            key = key[1:-1] if key[0] in "\"'" else key
            if key in result:
                raise duplicate_key(key, key_at)
            start = match.end()
            while self.text[start : start + 1] == " ":
                start += 1
            if self.text[start : start + 1] in ("\n", "", "#"):
                value, at = self.below(indent, depth, start)
            else:
                value, at = self.inline(start, indent, depth + 1), start
            result.put(key, value, key_at, at)
        if self.line is not None and self.line[0] > indent:
            raise UnsupportedError
        return result

    def below(self, indent: int, depth: int, start: int) -> tuple[Any, int]:
        """The value of a key whose own line ends after the colon."""
        self.advance()
        if self.line is None or self.line[0] < indent:
            return None, start
        at = self.line[1]
        if self.line[0] > indent:
            return self.block(indent, depth + 1), at
        if self._is_item(at):
            self.count(at, depth + 1)
            return self.sequence(indent, depth + 1), at
        return None, start

    # -- values on a line -----------------------------------------------------------------------

    def inline(self, at: int, indent: int, depth: int) -> Any:
        """The value that starts at `at` on the current line; leaves `line` at the one after it."""
        self.count(at, depth)
        letter = self.text[at]
        if letter == "|":
            return self.literal(at, indent)
        if letter in "[{":
            value, end = self.flow(at, depth, indent)
        elif letter in "\"'":
            value, end = self.quoted(at, indent)
        else:
            match = _PLAIN.match(self.text, at)
            if match is None:
                raise UnsupportedError
            plain = match.group().rstrip(" ")
            end = at + len(plain)
            if self.text.startswith("\n", end):
                plain = self.folded(plain, indent)
            value = resolve_plain(plain, at)
        tail = _END.match(self.text, end)
        if tail is None:
            raise UnsupportedError
        self.next_line = max(self.next_line, tail.end())
        self.advance()
        if self.line is not None and self.line[0] > indent:
            raise UnsupportedError  # a wrong indent
        return value

    def folded(self, plain: str, indent: int) -> str:
        """A plain text with the lines that continue it, which are indented deeper than its key."""
        parts = [plain]
        while True:
            line = _LINE.match(self.text, self.next_line)
            if line is None or not line.group(2) or len(line.group(1)) <= indent:
                return " ".join(parts)  # behind a blank line may stand more: `inline` refuses that
            match = _PLAIN.fullmatch(line.group(2).rstrip(" "))
            if match is None or line.group(2).startswith("-"):
                raise UnsupportedError
            parts.append(match.group())
            self.next_line = line.end()

    def quoted(self, at: int, indent: int | None = None) -> tuple[str, int]:
        """A quoted text; over several lines only where `indent` says how deep they have to stand."""
        double = self.text[at] == '"'
        match = (_DOUBLE if double else _SINGLE).match(self.text, at)
        if match is None and indent is not None:
            match = (_LONG_DOUBLE if double else _LONG_SINGLE).match(self.text, at)
        if match is None:
            raise UnsupportedError
        value = match.group(1)
        if "\n" in value:
            value = fold(value, indent or 0)
        if not double:
            return value.replace("''", "'"), match.end()
        return (unescape(value, at) if "\\" in value else value), match.end()

    def literal(self, at: int, indent: int) -> str:
        """A `|` text: its lines, without the indent of the first."""
        if self.text.startswith("|\n", at):
            strip = False
        elif self.text.startswith("|-\n", at):
            strip = True
        else:
            raise UnsupportedError
        lines: list[str] = []
        inner, position = 0, self.text.index("\n", at) + 1
        while position < len(self.text):
            match = _LINE.match(self.text, position)
            if match is None or not match.end() > position:
                break
            spaces, rest = len(match.group(1)), match.group(2)
            if not rest and (not inner or not match.group().endswith("\n")):
                raise UnsupportedError  # blank lines before the text, and at the very end, have own rules
            if rest and not inner:
                inner = spaces
            if rest and (spaces < inner or inner <= indent or inner == 0):
                break
            lines.append(self.text[position + inner : match.end(2)] if spaces >= inner else "")
            position = match.end()
        if not lines:
            raise UnsupportedError
        self.next_line = position
        self.advance()
        if self.line is not None and self.line[0] > indent:
            raise UnsupportedError
        text = "\n".join(lines).rstrip("\n")
        # Without a line break at the very end of the file there is none to keep.
        ended = position < len(self.text) or self.text.endswith("\n")
        return text if strip or not ended else text + "\n"

    # -- flow collections -----------------------------------------------------------------------

    def flow(self, at: int, depth: int, indent: int) -> tuple[Any, int]:
        return self.flow_map(at, depth, indent) if self.text[at] == "{" else self.flow_seq(at, depth, indent)

    def gap(self, at: int, start: int, indent: int) -> int:
        """Passes over spaces and line ends; a line that is not indented deeper is not for this reader."""
        match = _GAP.match(self.text, at)
        end = match.end() if match else at
        if end >= len(self.text):
            raise DocumentError(
                "yaml-syntax",
                f"this `{self.text[start]}` is never closed",
                start,
                f"Add `{']' if self.text[start] == '[' else '}'}`.",
            )
        line_end = self.text.rfind("\n", at, end)
        if line_end >= 0:
            marker = self.text.startswith(("---", "..."), line_end + 1)
            if marker or end - line_end - 1 <= indent:
                raise UnsupportedError
            self.next_line = self.text.find("\n", end) + 1 or len(self.text)
        return end

    def flow_seq(self, start: int, depth: int, indent: int) -> tuple[Seq, int]:
        result = Seq(start)
        at = self.gap(start + 1, start, indent)
        while self.text[at] != "]":
            value, end = self.flow_value(at, depth + 1, indent)
            result.put(value, at)
            at = self.gap(end, start, indent)
            if self.text[at] == ",":
                at = self.gap(at + 1, start, indent)
            elif self.text[at] != "]":
                raise UnsupportedError
        return result, at + 1

    def flow_map(self, start: int, depth: int, indent: int) -> tuple[Map, int]:
        result = Map(start)
        at = self.gap(start + 1, start, indent)
        while self.text[at] != "}":
            key_at = at
            key, end = self.flow_key(at)
            if key in result:
                raise duplicate_key(key, key_at)
            at = self.gap(end, start, indent)
            value, end = self.flow_value(at, depth + 1, indent)
            result.put(key, value, key_at, at)
            at = self.gap(end, start, indent)
            if self.text[at] == ",":
                at = self.gap(at + 1, start, indent)
            elif self.text[at] != "}":
                raise UnsupportedError
        return result, at + 1

    def flow_key(self, at: int) -> tuple[str, int]:
        if self.text[at] in "\"'":
            key, end = self.quoted(at)
            if self.text[end : end + 1] != ":":
                raise UnsupportedError
            return key, end + 1
        match = _FLOW_KEY.match(self.text, at)
        if match is None:
            raise UnsupportedError
        return match.group(1), match.end()

    def flow_value(self, at: int, depth: int, indent: int) -> tuple[Any, int]:
        self.count(at, depth)
        letter = self.text[at]
        value: Any
        if letter in "[{":
            return self.flow(at, depth, indent)
        if letter in "\"'":
            value, end = self.quoted(at)
        else:
            match = _FLOW_PLAIN.match(self.text, at)
            if match is None:
                raise UnsupportedError
            end = match.end()
            value = resolve_plain(match.group().rstrip(" "), at)
        if self.text[end : end + 1] not in (",", "]", "}", " ", "\n"):
            raise UnsupportedError
        return value, end
