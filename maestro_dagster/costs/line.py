"""A usage event as a line of JSON. A field that has the value it mostly has (0, "", its default) is left
out; the price never is: null says that it is unknown.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from datetime import datetime
from json.encoder import encode_basestring_ascii as quote
from operator import attrgetter
from typing import Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.errors import CostError

FIELDS = tuple(field.name for field in fields(UsageEvent))
REQUIRED = ("event_id", "phase", "tenant", "run_id", "flow", "step", "kind", "occurred_at")
_VALUES = attrgetter(*FIELDS)
_NEEDED = frozenset(REQUIRED)
_KINDS = {field.name: str(field.type) for field in fields(UsageEvent)}
_NULLABLE = frozenset(name for name, kind in _KINDS.items() if kind.endswith("None"))
_LIMITS = {name: 2**63 for name, kind in _KINDS.items() if kind.startswith("int")}
_LIMITS |= dict.fromkeys(("iteration", "attempt"), 2**31)
_ALWAYS = object()  # equals no value: the field is in every line
USUAL: dict[str, Any] = {  # what a field that is absent means
    field.name: field.default if field.default is not MISSING else {"int": 0, "str": ""}.get(str(field.type))
    for field in fields(UsageEvent)
}
_LINE = tuple(
    (f',"{name}":', _ALWAYS if name in _NEEDED or name == "cost_nano" else USUAL[name]) for name in FIELDS
)


def encode_event(event: UsageEvent) -> bytes:
    """One line. Raises CostError (`event-invalid`) for a text that is no Unicode."""
    parts = []
    for (name, usual), value in zip(_LINE, _VALUES(event), strict=True):
        if value is None:
            if usual is not None:
                parts.append(name + "null")
        elif value != usual:
            if value.__class__ is str:
                parts.append(name + quote(value))
            elif value.__class__ is bool:
                parts.append(name + ("true" if value else "false"))
            else:
                parts.append(name + str(value))
    line = "".join(parts)
    if "\\ud" in line:
        _refuse_half_characters(event)
    return b"{" + line[1:].encode("ascii") + b"}\n"


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object on a line of a spool; None for an empty line and for the torn half of one.

    No proper prefix of an object ends it. Raises ValueError for a line that is damaged.
    """
    if not line:
        return None
    try:
        value: Any = json.loads(line)
    except ValueError:
        if line.startswith(b"{") and not line.endswith(b"}"):
            return None
        raise
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - damage has one error, whatever it looks like
    return value


def decode_line(line: bytes, place: str) -> UsageEvent | None:
    """None for an empty line and a torn one. Raises CostError (`spool-corrupt`)."""
    try:
        value = parse_line(line)
    except ValueError:
        raise corrupt_line(place) from None
    if value is None:
        return None
    if not value.keys() >= _NEEDED:
        raise corrupt_line(place)
    known = {
        name: item
        for name, item in value.items()
        if name in USUAL and (item is not None or name in _NEEDED)  # null is absence
    }
    if not all(_fits(name, item) for name, item in known.items()) or not _is_time(known["occurred_at"]):
        raise corrupt_line(place)
    return UsageEvent(**{**USUAL, **known})


def _fits(name: str, value: Any) -> bool:
    kind = value.__class__
    if kind is str:
        return (
            name not in _LIMITS
            and name != "estimated"
            and (name != "phase" or value in ("intent", "settled"))
        )
    if kind is int:
        return name in _LIMITS and -_LIMITS[name] <= value < _LIMITS[name]
    return name == "estimated" if kind is bool else value is None and name in _NULLABLE


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return text[10:11] == "T" and text.endswith("Z")


def _refuse_half_characters(event: UsageEvent) -> None:
    for name, value in zip(FIELDS, _VALUES(event), strict=True):
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise CostError(
                f"the {name} of a usage event is no Unicode text", place=event.event_id, code="event-invalid"
            ) from None


def corrupt_line(place: str) -> CostError:
    return CostError(
        "a line of the usage spool is damaged",
        place=place,
        remedy="restore the file from a backup, or remove the line: the usage that it told of is lost then",
        code="spool-corrupt",
    )
