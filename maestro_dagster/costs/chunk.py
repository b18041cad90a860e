"""Spool files read as chunks of whole lines, for readers that take a day at a time.

What a day does not concern is skipped before it is decoded, so a day costs what the day holds, not what the
spool holds; and no more than one chunk is in memory, however long a file is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from maestro_dagster.costs.interface import Chunk
from maestro_dagster.costs.line import corrupt_line, decode_line, encode_event
from maestro_dagster.errors import CostError

SIZE = 1 << 23  # bytes of a chunk; a decoded one takes about as much again
_TIME = re.compile(rb'"occurred_at":"(\d{4}-\d\d-\d\d)')


def read_chunks(run_id: str, path: Path, day: str | None = None, size: int = SIZE) -> Iterator[Chunk]:
    """The file's lines of a day (None: all of them). Nothing for a file that is gone: it was compacted.

    A file without a whole line is one chunk of 0 lines, so that who removes files knows of it.

    Raises CostError (`spool-corrupt`, `spool-read`).
    """
    end, number = 0, 1
    try:
        with path.open("rb") as file:
            rest = b""
            while block := file.read(size):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                data = whole + newline
                if data:
                    end += len(data)
                    yield _chunk(run_id, path, data, number, day, end)
                    number += data.count(b"\n")
        if not end:
            yield Chunk(run_id, str(path), b"", 0, frozenset(), 0)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CostError(
            f"the usage spool cannot be read: {error.strerror}", place=str(path), code="spool-read"
        ) from error


def _chunk(run_id: str, path: Path, data: bytes, number: int, day: str | None, end: int) -> Chunk:
    raw, lines = data, data.count(b"\n")
    # The shape of every line, seen at memory speed: `{...}`, one after the other.
    if not (data.startswith(b"{") and data.endswith(b"}\n") and data.count(b'}\n{"') == lines - 1):
        data = _repair(raw, path, number, every=False)
        lines = data.count(b"\n")
    marker = b'"occurred_at":"' + day.encode() if day else b""
    if day and data.count(marker) == lines:
        return Chunk(run_id, str(path), data, lines, frozenset(), end)
    found = _TIME.findall(data)
    if len(found) != lines or not all(map(_is_day, set(found))):
        data = _repair(raw, path, number, every=True)
        found = _TIME.findall(data)
    days = frozenset(text.decode() for text in set(found))
    if day:
        data = b"".join(line for line in data.splitlines(keepends=True) if marker in line)
    return Chunk(run_id, str(path), data, data.count(b"\n"), days - {day}, end)


def _repair(data: bytes, path: Path, number: int, *, every: bool) -> bytes:
    """Leaves out empty and torn lines; `every`: puts each into the form of `encode_event`, or refuses it."""
    kept = []
    for count, line in enumerate(data.split(b"\n")[:-1], start=number):
        if not line or (line.startswith(b"{") and not line.endswith(b"}")):
            continue
        if every:
            event = decode_line(line, f"{path}:{count}")
            line = encode_event(event)[:-1] if event else b""  # noqa: PLW2901 - the same line, in one form
        elif not line.startswith(b"{"):
            raise corrupt_line(f"{path}:{count}")
        kept.append(line + b"\n")
    return b"".join(kept)


def _is_day(text: bytes) -> bool:
    try:
        date.fromisoformat(text.decode())
    except ValueError:
        return False
    return True
