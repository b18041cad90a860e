"""The one place that whatever leaves a process goes through: logs, traces, records, evidence.

It hides what it has learned (secrets, in every spelling that tools print them in), what has the shape of
a credential although nobody declared it, and, where a text leaves the proof of a run, what has the shape
of personal data.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from maestro_dagster.telemetry.shape import hide_credentials, hide_personal

_SHORTEST = 4  # characters: hiding shorter ones would blacken ordinary words and help guessing
_SHORTEST_PART = 8  # characters of a spelling that is only a part: a rarer text is needed to be sure
_SHORTEST_LINE = 6  # of a secret with several lines: `}` or `---` alone is none
# Nanoseconds, measured: looking for each value is faster than one pass with an index while they are few.
_ONE_SEARCH, _SEARCH_OF_A_CHARACTER, _LOOK_UP = 50.0, 0.1, 60.0
_SHORTEST_FOUND = 8  # characters of a value in the environment
HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:SECRETS?|TOKENS?|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)"
    r"(?:$|_(?!FILE$|PATH$|NAME$|URL$|TYPE$))",
    re.IGNORECASE,
)


class Redactor:
    """Replaces secrets, also in the spellings that tools print. One for a process; safe between threads.

    It only ever learns: what one step read may come back in the words of another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._known: set[str] = set()
        self._runs: set[str] = set()
        self.generation = 0  # grows with what it knows: what was found clean before may not be so now
        self._find: Callable[[str], list[tuple[int, int]]] | None = None
        _ALIVE.add(self)

    def add(self, secret: str) -> None:
        self.add_all((secret,))

    def add_all(self, secrets: Iterable[str]) -> None:
        """As `add` for many, at the price of one."""
        with self._lock:
            fresh = [secret for secret in secrets if secret not in self._secrets]
            if not fresh:
                return
            self._secrets.update(fresh)
            for secret in fresh:
                self._known.update(spell_secret(secret))
            self._find = _finder(sorted(self._known, key=len, reverse=True)) if self._known else None
            self.generation += 1

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """The values of variables whose names speak of a secret: what a tool prints of its surroundings."""
        self.add_all(
            value
            for name, value in environment.items()
            if len(value) >= _SHORTEST_FOUND and _SECRET_NAME.search(name)
        )

    def mark(self, run_id: str) -> None:
        """All secrets of this run are known by now."""
        with self._lock:
            self._runs.add(run_id)

    def knows(self, run_id: str) -> bool:
        return run_id in self._runs

    def hide(self, text: str) -> str:
        """The text without secrets: the known ones, and what is plainly a credential."""
        find = self._find
        if find is not None and (spots := find(text)):
            text = _cut(text, spots)
        return hide_credentials(text)

    def hide_all(self, text: str) -> str:
        """Also without what has the shape of personal data: for logs and traces, which prove nothing."""
        return hide_personal(self.hide(text))

    def hide_in(self, value: Any) -> Any:
        """The same JSON value without secrets in its strings and keys."""
        return _map_texts(value, self.hide)

    def hide_all_in(self, value: Any) -> Any:
        """As `hide_in`, and without personal data."""
        return _map_texts(value, self.hide_all)


_ALIVE: weakref.WeakSet[Redactor] = weakref.WeakSet()


def hide_printed(text: str) -> str:
    """What this process prints, without what any of its redactors knows: who prints does not say for whom."""
    for redactor in tuple(_ALIVE):
        text = redactor.hide(text)
    return hide_personal(hide_credentials(text))


def spell_secret(secret: str) -> set[str]:
    """The ways in which tools print a secret; those too short to be told from other text are left out."""
    lines = [line.strip() for line in secret.splitlines()]
    values = {secret, secret.strip(), *(line for line in lines if len(line) >= _SHORTEST_LINE)}
    found: set[str] = set()
    for value in values:
        if len(value) >= _SHORTEST:
            found.update(_spell(value))
    return found


def _spell(value: str) -> Iterator[str]:
    yield value
    data = value.encode(errors="surrogateescape")
    for escaped in (quote(value, safe="", errors="surrogateescape"), quote(value, errors="surrogateescape"),
                    quote_plus(value, errors="surrogateescape")):  # fmt: skip
        yield escaped
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), escaped)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(json.dumps(value)[1:-1])[1:-1]  # JSON within JSON
    yield repr(value)[1:-1]
    yield repr(data)[2:-1]
    yield html.escape(value)
    yield html.escape(value, quote=False)
    quoted = shlex.quote(value)
    yield quoted[1:-1] if quoted.startswith("'") else quoted
    yield base64.b64encode(data).decode().rstrip("=")
    if len(data.hex()) >= _SHORTEST_PART:
        yield data.hex()
        yield data.hex().upper()
    yield from _spell_inside(data)


def _spell_inside(data: bytes) -> Iterator[str]:
    """Base64 of the secret within something longer, as in `Authorization: Basic`: three ways to lie in it.

    The characters at both ends that depend on the neighbours are left out.
    """
    for before in range(3):
        text = base64.b64encode(b"\0" * before + data).decode()
        first = (before * 8 + 5) // 6  # the first character that holds bits of the secret only
        last = (before + len(data)) * 8 // 6
        part = text[first:last]
        if len(part) >= _SHORTEST_PART:
            yield part
            if "+" in part or "/" in part:
                yield part.replace("+", "-").replace("/", "_")


def _finder(values: list[str]) -> Callable[[str], list[tuple[int, int]]]:
    """Finds where any of the values stands in a text: (begin, end) pairs in no order."""
    index: dict[str, list[str]] = {}
    for value in values:
        index.setdefault(value[:_SHORTEST], []).append(value)

    def find(text: str) -> list[tuple[int, int]]:
        if len(values) * (_ONE_SEARCH + len(text) * _SEARCH_OF_A_CHARACTER) <= len(text) * _LOOK_UP:
            return [spot for value in values if value in text for spot in _spots(text, value)]
        found = []
        for begin in range(len(text) - _SHORTEST + 1):
            for value in index.get(text[begin : begin + _SHORTEST], ()):
                if text.startswith(value, begin):
                    found.append((begin, begin + len(value)))
                    break  # they are sorted: the longest was met first
        return found

    return find


def _spots(text: str, value: str) -> Iterator[tuple[int, int]]:
    begin = text.find(value)
    while begin >= 0:
        yield begin, begin + len(value)
        begin = text.find(value, begin + 1)


def _cut(text: str, spots: list[tuple[int, int]]) -> str:
    """Secrets that overlap or touch go as one: no part of either stays."""
    parts: list[str] = []
    done = 0
    end = -1
    for begin, stop in sorted(spots):
        if begin > end:
            if end >= 0:
                parts.append(HIDDEN)
                done = end
            parts.append(text[done:begin])
        end = max(end, stop)
    return "".join([*parts, HIDDEN, text[end:]])


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _map_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(each, change) for each in value]
    return value
