"""YAML 1.2 (core schema) into a tree that knows its places.

What is everyday goes through `yaml_plain`; all else through the events of ruamel.yaml's parser (pure
Python, so that every refusal has a line and column). Tags, merge keys, repeated keys, complex keys
and several documents are refused; aliases are allowed as long as what they stand for stays small.
"""

from __future__ import annotations

import gc
import re
from typing import TYPE_CHECKING, Any

from maestro_dagster.manifest.document import (
    MAX_ALIAS_NODES,
    MAX_ANCHORS,
    MAX_DEPTH,
    MAX_NODES,
    DocumentError,
    Map,
    Seq,
    join_surrogates,
)
from maestro_dagster.manifest.json_document import duplicate_key
from maestro_dagster.manifest.yaml_plain import parse_plain_yaml
from maestro_dagster.manifest.yaml_quoted import UnsupportedError
from maestro_dagster.manifest.yaml_scalar import resolve_plain

if TYPE_CHECKING:
    from collections.abc import Iterable

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_ALLOWED = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
# YAML 1.2 tells a reader to read on under any 1.x; the same length, so that places stay right.
_DIRECTIVE = re.compile(r"^(%YAML[ \t]+1\.)\d(?=\s|$)", re.MULTILINE)
_OPEN_EXPRESSION = re.compile(r"""[:,\[{-]\s*(\$\{\{.*?\}\})""")


def parse_yaml(text: str) -> Any:
    """The tree of one YAML document. Raises DocumentError with the offset of the first fault."""
    try:
        return parse_plain_yaml(text)
    except UnsupportedError:
        return parse_full_yaml(text)


def parse_full_yaml(text: str) -> Any:
    """The same through the general parser, without the short way."""
    bad = re.search(_NOT_ALLOWED, text)
    if bad is not None:
        raise DocumentError(
            "yaml-character",
            f"the character U+{ord(bad.group()):04X} may not stand in YAML",
            bad.start(),
            r"Write it as an escape in double quotes, such as \x07.",
        )
    collects = gc.isenabled()
    gc.disable()  # the parser makes no circles, and looking for them takes a third of its time
    try:
        return _build(_events(_DIRECTIVE.sub(r"\g<1>2", text, count=1)))
    except DocumentError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser asserts and indexes its way out of odd texts
        raise _syntax_error(text, error) from None
    finally:
        if collects:
            gc.enable()


def _events(text: str) -> Iterable[Any]:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).parse(text)  # type: ignore[no-any-return]


class _Frame:
    """A collection that is being read: its value, the key that waits, its anchor and size so far."""

    __slots__ = ("anchor", "at", "key", "key_at", "size", "value")

    def __init__(self, value: Map | Seq, anchor: str | None, at: int) -> None:
        self.value = value
        self.anchor = anchor
        self.at = at
        self.key: str | None = None
        self.key_at = 0
        self.size = 1


class _Builder:
    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}  # anchor -> its value and how many values that holds
        self.root: Any = None
        self.documents = 0
        self.nodes = 0
        self.anchor_count = 0
        self.alias_nodes = 0

    def add(self, value: Any, at: int, size: int) -> None:
        """Puts a finished value (or a key) where it belongs."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError(
                "too-large", f"the text has more than {MAX_NODES} values", at, "Split the flow."
            )
        if not self.stack:
            self.root = value
            return
        frame = self.stack[-1]
        frame.size += size
        if isinstance(frame.value, Seq):
            frame.value.put(value, at)
        elif frame.key is None:
            raise DocumentError("yaml-key", "a key is a list or a map", at, "Use a plain text as the key.")
        else:
            frame.value.put(frame.key, value, frame.key_at, at)
            frame.key = None

    @property
    def wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, Map) and self.stack[-1].key is None

    def key(self, text: str, at: int, *, plain: bool) -> None:
        frame = self.stack[-1]
        if text == "<<" and plain:
            raise DocumentError(
                "yaml-merge", "merge keys (`<<`) are not part of YAML 1.2", at, "Write the keys out."
            )
        if text in frame.value:
            raise duplicate_key(text, at)
        frame.key, frame.key_at = text, at
        frame.size += 1

    def scalar(self, event: Any) -> None:
        at = event.start_mark.index
        text = event.value
        if _SURROGATE.search(text):
            text = join_surrogates(text, at)
        plain = event.style is None or event.style == ""
        if self.wants_key:
            self._remember(event.anchor, text, 1, at)
            self.key(text, at, plain=plain)
            return
        value = resolve_plain(text, at) if plain else text
        self._remember(event.anchor, value, 1, at)
        self.add(value, at, 1)

    def alias(self, event: Any) -> None:
        at = event.start_mark.index
        if any(frame.anchor == event.anchor for frame in self.stack):
            raise DocumentError(
                "yaml-alias-cycle",
                f"the alias `*{event.anchor}` stands inside the value that it names",
                at,
                "Write the value out.",
            )
        if event.anchor not in self.anchors:
            raise DocumentError(
                "yaml-alias", f"no anchor `&{event.anchor}` stands before this alias", at, "Add the anchor."
            )
        value, size = self.anchors[event.anchor]
        self.alias_nodes += size
        if self.alias_nodes > MAX_ALIAS_NODES:
            raise DocumentError(
                "yaml-alias-bomb",
                f"the aliases stand for more than {MAX_ALIAS_NODES} values",
                at,
                "Write out what is needed, without aliases of aliases.",
            )
        if self.wants_key:
            if not isinstance(value, str):
                raise DocumentError("yaml-key", "a key is not a text", at, "Write the key out.")
            self.key(value, at, plain=False)
            return
        self.add(value, at, size)

    def open(self, event: Any, value: Map | Seq) -> None:
        at = event.start_mark.index
        if len(self.stack) >= MAX_DEPTH:
            raise DocumentError("too-deep", f"values are nested deeper than {MAX_DEPTH}", at, "Flatten them.")
        if self.wants_key:
            raise DocumentError("yaml-key", "a key is a list or a map", at, "Use a plain text as the key.")
        self.stack.append(_Frame(value, event.anchor, at))

    def close(self) -> None:
        frame = self.stack.pop()
        self._remember(frame.anchor, frame.value, frame.size, frame.at)
        self.add(frame.value, frame.at, frame.size)

    def _remember(self, anchor: str | None, value: Any, size: int, at: int) -> None:
        if anchor is not None:
            self.anchor_count += 1
            if self.anchor_count > MAX_ANCHORS:
                raise DocumentError(
                    "yaml-anchors",
                    f"the text has more than {MAX_ANCHORS} anchors",
                    at,
                    "Write the values out, or take away anchors that no alias names.",
                )
            self.anchors[anchor] = (value, size)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise DocumentError(
                "yaml-documents",
                "the file holds more than one document",
                event.start_mark.index,
                "Keep one flow a file.",
            )


def _build(events: Iterable[Any]) -> Any:
    builder = _Builder()
    for event in events:
        name = type(event).__name__
        if getattr(event, "tag", None) is not None and str(event.tag) not in ("", "None"):
            raise DocumentError(
                "yaml-tag",
                f"the tag `{event.tag}` is not allowed",
                event.start_mark.index,
                "Remove it; put a text that starts with `!` in quotes.",
            )
        if name == "ScalarEvent":
            builder.scalar(event)
        elif name == "MappingStartEvent":
            builder.open(event, Map(event.start_mark.index))
        elif name == "SequenceStartEvent":
            builder.open(event, Seq(event.start_mark.index))
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            builder.close()
        elif name == "AliasEvent":
            builder.alias(event)
        elif name == "DocumentStartEvent":
            builder.document(event)
    return builder.root


def _syntax_error(text: str, error: Exception) -> DocumentError:
    """The parser's own refusal, its assertion or its crash, as a fault with a place."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = min(mark.index, len(text)) if mark is not None else len(text)
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    line = text[start : end if end >= 0 else len(text)]
    found = _OPEN_EXPRESSION.search(line)
    if found is not None:
        expression = found.group(1)
        return DocumentError(
            "yaml-expression-unquoted",
            f"the expression {expression} stands without quotes, where `{{` opens a map",
            start + found.start(1),
            f'Put it in quotes: "{expression}".',
        )
    problem = getattr(error, "problem", None) or "the text is no YAML"
    context = getattr(error, "context", None)
    message = " ".join(f"{context}: {problem}".split()) if context else " ".join(str(problem).split())
    remedy = "Check the indentation and the quotes of this line and of the one before it."
    if "\t" in line[: len(line) - len(line.lstrip())]:
        remedy = "Indent with spaces, not with tabs."
    return DocumentError("yaml-syntax", message, offset, remedy)
