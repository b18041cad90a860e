"""A parsed text that still knows where everything stood, so that each finding can name a line.

Both readers (JSON, YAML) make the same tree: Map, Seq, and plain strings, numbers, booleans, null.
Places are offsets into the text; line and column are worked out only for what is reported.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64  # collections within each other
MAX_NODES = 1_000_000
MAX_ANCHORS = 1000  # a person writes a handful; each makes the slow reader read the whole text
MAX_ALIAS_NODES = 50_000  # values that aliases stand for, counted as if each were written out
MAX_KEY = 1000  # characters; YAML itself allows 1024 for a key on one line
MAX_DIGITS = 400  # of one number


class Map(dict[str, Any]):
    """An object. `key_at` and `value_at` hold the offset of each key and value."""

    __slots__ = ("at", "key_at", "value_at")

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.key_at: dict[str, int] = {}
        self.value_at: dict[str, int] = {}

    def put(self, key: str, value: Any, key_at: int, value_at: int) -> None:
        if len(key) > MAX_KEY:
            message = f"a key is longer than {MAX_KEY} characters"
            raise DocumentError("too-large", message, key_at, "Shorten it.")
        self[key] = value
        self.key_at[key] = key_at
        self.value_at[key] = value_at


class Seq(list[Any]):
    """An array. `item_at` holds the offset of each item."""

    __slots__ = ("at", "item_at")

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.item_at: list[int] = []

    def put(self, value: Any, at: int) -> None:
        self.append(value)
        self.item_at.append(at)


class DocumentError(Exception):
    """The text cannot be read at `offset`. Becomes a diagnostic; never leaves the manifest room."""

    def __init__(self, code: str, message: str, offset: int, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.remedy = remedy


class Lines:
    """Turns offsets into lines and columns, both from 1. Columns count characters, not bytes."""

    def __init__(self, text: str) -> None:
        self.starts = [0]
        position = text.find("\n")
        while position >= 0:
            self.starts.append(position + 1)
            position = text.find("\n", position + 1)

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1


def offset_of(tree: Any, path: Sequence[str | int], *, of_key: bool = False) -> int:
    """Where the value at `path` stands (or its key); the nearest enclosing value if it is not there."""
    at = getattr(tree, "at", 0)
    for depth, part in enumerate(path):
        if isinstance(tree, Map) and part in tree:
            key = str(part)
            last = depth == len(path) - 1
            at = tree.key_at[key] if of_key and last else tree.value_at[key]
            tree = tree[key]
        elif isinstance(tree, Seq) and isinstance(part, int) and part < len(tree):
            at, tree = tree.item_at[part], tree[part]
        else:
            break
    return at


def plain(value: Any) -> Any:
    """The value as builtin dicts and lists, without places."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def decode(data: bytes) -> str:
    """The text of a manifest: UTF-8, with or without a byte order mark, without NUL."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DocumentError("encoding", "the text is UTF-16, not UTF-8", 0, "Save the file as UTF-8.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = len(data[: error.start].decode("utf-8"))
        raise EncodingError(data, before, error.start) from None
    return text.removeprefix("\ufeff")


class EncodingError(DocumentError):
    """Bytes that are no UTF-8; keeps the readable start, so that a line can be named."""

    def __init__(self, data: bytes, offset: int, byte: int) -> None:
        super().__init__(
            "encoding",
            f"the byte 0x{data[byte]:02x} at position {byte} is not valid UTF-8",
            offset,
            "Save the file as UTF-8.",
        )
        self.readable = data[:byte].decode("utf-8")


def join_surrogates(text: str, offset: int) -> str:
    r"""`\ud83d\ude00` as one character; a surrogate without its partner is refused."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise DocumentError(
            "lone-surrogate",
            "a text has one half of a surrogate pair, which is no character",
            offset,
            "Write the character itself, or both halves.",
        ) from None
