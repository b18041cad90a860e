"""Dated prices of compute, network and storage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from maestro_dagster.errors import CostError
from maestro_dagster.manifest.plain_yaml import load_plain_yaml
from maestro_dagster.manifest.price import format_atto, parse_price, round_cost

BYTES_PER_GB = 10**9
# unit -> how many of the smallest countable parts one unit has: prices are kept per part, exactly.
UNITS: Mapping[str, int] = {
    "cpu_second": 1_000,  # milliseconds
    "wall_second": 1_000,
    "gb_second": BYTES_PER_GB,  # kilobyte-milliseconds, which are byte-seconds
    "gb_written": BYTES_PER_GB,
    "network_gb_in": BYTES_PER_GB,
    "network_gb_out": BYTES_PER_GB,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    valid_from: str
    atto: Mapping[str, int]  # atto-USD for UNITS[unit] parts; 0 only where the card says free


class RateCard:
    """`resources/rates.yaml`. Every `price_*` gives (nano-USD or None when unknown, name of the price)."""

    def __init__(self, entries: tuple[_Entry, ...], name: str = "rates") -> None:
        self._entries = entries
        self._days = [entry.valid_from for entry in entries]
        self._name = name

    @classmethod
    def load(cls, path: Path) -> RateCard:
        """Raises CostError (`rates-missing`, `rates-invalid`)."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CostError(
                f"the rate card cannot be read: {error.strerror}",
                place=str(path),
                remedy="restore resources/rates.yaml; `maestro init` writes one",
                code="rates-missing",
            ) from error
        return cls.from_document(_read_yaml(data, str(path)), place=str(path), name=path.stem)

    @classmethod
    def from_document(cls, document: Any, *, place: str = "rates", name: str = "rates") -> RateCard:
        if not isinstance(document, Mapping) or str(document.get("version")) != "1":
            raise _invalid("a rate card starts with `version: 1`", place)
        if document.get("currency") != "USD":
            raise _invalid("a rate card is in USD", place)
        unknown = document.keys() - {"version", "currency", "rates"}
        if unknown:
            raise _invalid(f"unknown key {min(unknown)!r}", place)
        rows = document.get("rates")
        if not isinstance(rows, list):
            raise _invalid("`rates` is a list of dated entries", place)
        entries = [_read_entry(row, f"{place}: rates[{index}]") for index, row in enumerate(rows)]
        days = [entry.valid_from for entry in entries]
        if days != sorted(set(days)):
            raise _invalid("entries stand in the order of `valid_from`, each date once", place)
        return cls(tuple(entries), name)

    def price_compute(self, cpu_ms: int, when: str, *, wall_ms: int = 0) -> tuple[int | None, str]:
        """Milliseconds on a day; `when` starts with YYYY-MM-DD.

        Wall time costs something only where the card has a line for it: a machine is paid by what it
        computes or by how long it is held.
        """
        entry = self._entry(when)
        held = (("wall_second", wall_ms),) if entry is not None and "wall_second" in entry.atto else ()
        return self._price((("cpu_second", cpu_ms), *held), when)

    def price_network(self, bytes_in: int, bytes_out: int, when: str) -> tuple[int | None, str]:
        """Bytes in, out or both; the name of the price has the directions that were used."""
        both = (("network_gb_in", bytes_in), ("network_gb_out", bytes_out))
        return self._price(tuple(each for each in both if each[1]) or both, when)

    def price_storage(self, bytes_written: int, when: str) -> tuple[int | None, str]:
        return self._price((("gb_written", bytes_written),), when)

    def price_memory(self, kb_ms: int, when: str) -> tuple[int | None, str]:
        """1000 bytes held for a millisecond, which is one byte for a second."""
        return self._price((("gb_second", kb_ms),), when)

    def missing_units(self, when: str) -> tuple[str, ...]:
        """Units without a price on that day, of those that usage needs one for."""
        entry = self._entry(when)
        needed = (unit for unit in UNITS if unit != "wall_second")
        return tuple(unit for unit in needed if entry is None or unit not in entry.atto)

    def list_day(self, when: str) -> list[dict[str, str | None]]:
        """`[{"unit", "usd", "price"}]` of a day: `usd` is None where it is unknown, "0" where it is free."""
        entry = self._entry(when)
        units = [unit for unit in UNITS if unit != "wall_second" or (entry and unit in entry.atto)]
        known = entry.atto if entry else {}
        return [
            {
                "unit": unit,
                "usd": format_atto(known[unit]) if unit in known else None,
                "price": f"{self._name}@{entry.valid_from if entry else 'none'}#{unit}",
            }
            for unit in units
        ]

    def _price(self, quantities: tuple[tuple[str, int], ...], when: str) -> tuple[int | None, str]:
        entry = self._entry(when)
        name = f"{self._name}@{entry.valid_from if entry else 'none'}#" + "+".join(
            unit for unit, _ in quantities
        )
        total = 0
        for unit, parts in quantities:
            if parts < 0:
                raise CostError(f"{parts} {unit} cannot be priced", code="quantity-negative")
            if not parts:
                continue
            if entry is None or unit not in entry.atto:
                return None, name
            # Kept over one denominator so that nothing is cut before the one rounding below.
            total += entry.atto[unit] * parts * (_COMMON // UNITS[unit])
        return round_cost(-(-total // _COMMON)), name

    def _entry(self, when: str) -> _Entry | None:
        index = bisect_right(self._days, when[:10])
        return self._entries[index - 1] if index else None


_COMMON = max(UNITS.values())


def _read_entry(row: Any, place: str) -> _Entry:
    if not isinstance(row, Mapping):
        raise _invalid("an entry has `valid_from` and prices by unit", place)
    valid_from = row.get("valid_from")
    try:
        day = date.fromisoformat(str(valid_from)).isoformat()
    except ValueError:
        raise _invalid(f"{valid_from!r} is not a date", place) from None
    atto: dict[str, int] = {}
    for unit, price in row.items():
        if unit == "valid_from":
            continue
        if unit not in UNITS:
            raise _invalid(f"unknown unit {unit!r}; the units are {', '.join(UNITS)}", place)
        atto[unit] = _read_price(price, f"{place}.{unit}")
    return _Entry(day, atto)


def _read_price(price: Any, place: str) -> int:
    if isinstance(price, Mapping):
        if dict(price) == {"free": True}:
            return 0
        raise _invalid("a price is a decimal string, or {free: true}", place)
    if not isinstance(price, str):
        raise _invalid("a price is a decimal string in quotes: a bare number is read as binary", place)
    atto = parse_price(price, place=place)
    if atto == 0:
        raise _invalid("a price of zero must be said: {free: true}", place)
    return atto


def _read_yaml(data: bytes, place: str) -> Any:
    try:
        return load_plain_yaml(data)
    except ValueError as error:
        raise _invalid(f"the rate card does not parse: {error}", place) from None


def _invalid(fact: str, place: str) -> CostError:
    return CostError(
        fact, place=place, remedy="see the comments in resources/rates.yaml", code="rates-invalid"
    )
