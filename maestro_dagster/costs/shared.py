"""`resources/shared.yaml`: invoices that are divided among tenants, and by what. The file may be missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.costs.allocate import KEYS, OVER, SharedLine
from maestro_dagster.errors import CostError, ManifestError
from maestro_dagster.manifest.money import parse_usd
from maestro_dagster.manifest.plain_yaml import load_plain_yaml

_MONTH = re.compile(r"[12]\d{3}-(0[1-9]|1[0-2])")
_FIELDS = frozenset({"name", "amount", "since", "until", "key", "over", "weights", "description"})
_MOST_WEIGHT = 10**12


def read_shared(path: Path) -> tuple[SharedLine, ...]:
    """The lines in the file's order; none where there is no file. Raises CostError (`shared-invalid`)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _invalid(f"the shared costs cannot be read: {error.strerror}", str(path)) from error
    try:
        document = load_plain_yaml(data)
    except ValueError as error:
        raise _invalid(f"the shared costs do not parse: {error}", str(path)) from None
    return parse_shared(document, str(path))


def parse_shared(document: Any, place: str = "shared") -> tuple[SharedLine, ...]:
    """The lines of a document that has been read already. Raises CostError (`shared-invalid`)."""
    if not isinstance(document, Mapping) or str(document.get("version")) != "1":
        raise _invalid("shared costs start with `version: 1`", place)
    if document.get("currency") != "USD":
        raise _invalid("shared costs are in USD", place)
    if unknown := document.keys() - {"version", "currency", "shared"}:
        raise _invalid(f"unknown key {min(map(str, unknown))!r}", place)
    rows = document.get("shared")
    if not isinstance(rows, list):
        raise _invalid("`shared` is a list of lines", place)
    lines = tuple(_read_line(row, f"{place}: shared[{index}]") for index, row in enumerate(rows))
    _refuse_overlaps(lines, place)
    return lines


def is_month(text: str) -> bool:
    return _MONTH.fullmatch(text) is not None


def _read_line(row: Any, place: str) -> SharedLine:
    if not isinstance(row, Mapping):
        raise _invalid("a line has name, amount, since and key", place)
    if unknown := row.keys() - _FIELDS:
        raise _invalid(
            f"unknown key {min(map(str, unknown))!r}; there are {', '.join(sorted(_FIELDS))}", place
        )
    name, key, over = row.get("name"), row.get("key"), row.get("over", "tenant")
    if not isinstance(name, str) or not name.strip():
        raise _invalid("a line has a `name`", place)
    if key not in KEYS:
        raise _invalid(f"`key` is one of {', '.join(KEYS)}", place)
    if over not in OVER:
        raise _invalid(f"`over` is one of {', '.join(OVER)}", place)
    if ("weights" in row) != (key == "weights"):
        raise _invalid("`weights` belong to `key: weights`, and to no other", place)
    since, until = _read_month(row.get("since"), "since", place), row.get("until")
    if until is not None and _read_month(until, "until", place) < since:
        raise _invalid("`until` is before `since`", place)
    return SharedLine(
        name=name,
        nano=_read_amount(row.get("amount"), place),
        since=since,
        until=until,
        key=key,
        over=over,
        weights=_read_weights(row["weights"], over, place) if key == "weights" else None,
        description=str(row.get("description", "")),
    )


def _read_amount(value: Any, place: str) -> int:
    if not isinstance(value, str):
        raise _invalid("`amount` is a decimal string of USD in quotes, below zero for a credit", place)
    try:
        return -parse_usd(value[1:]) if value.startswith("-") else parse_usd(value)
    except ManifestError as error:
        raise _invalid(error.fact, place) from None


def _read_month(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str) or not is_month(value):
        raise _invalid(f'`{name}` is a month in quotes, "2026-01"', place)
    return value


def _read_weights(value: Any, over: str, place: str) -> dict[str, int]:
    if not isinstance(value, Mapping) or not value:
        raise _invalid("`weights` maps members to whole numbers", place)
    parts = OVER.index(over) + 1 if over in OVER else 0
    for member, weight in value.items():
        if not isinstance(member, str) or len(member.split("/")) != parts or not all(member.split("/")):
            raise _invalid(f"{member!r} is no {'/'.join(OVER[:parts])}", place)
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= _MOST_WEIGHT:
            raise _invalid(f"the weight of {member!r} is a whole number, zero or more", place)
    if not any(value.values()):
        raise _invalid("one of the `weights` is above zero", place)
    return dict(value)


def _refuse_overlaps(lines: Sequence[SharedLine], place: str) -> None:
    """A name stands once for a month: the same invoice would be divided twice."""
    for index, line in enumerate(lines):
        for other in lines[:index]:
            if other.name == line.name and (
                (other.until is None or line.since <= other.until)
                and (line.until is None or other.since <= line.until)
            ):
                raise _invalid(f"two lines {line.name!r} hold in the same month", place)


def _invalid(fact: str, place: str) -> CostError:
    return CostError(
        fact, place=place, remedy="see the comments in resources/shared.yaml", code="shared-invalid"
    )
