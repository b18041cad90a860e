"""Money is a whole number of nano-dollars (10^-9 USD) inside and a decimal string outside.

Binary floats never carry money: `NUMERIC(10,4)` and doubles both lose the small calls that a
token price makes.
"""

from __future__ import annotations

import re

from maestro_dagster.errors import ManifestError

NANO = 1_000_000_000
_AMOUNT = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?")
_TOO_LARGE = re.compile(r"0*[1-9]\d{12,}(?:\.\d{1,9})?")
LARGEST = "999999999999.999999999"  # USD
_BUDGET = re.compile(r"\s*(\d+(?:\.\d{1,9})?)\s*(?:usd|\$)?\s*", re.IGNORECASE)
# A double holds 15 decimal digits for sure; more of them and the file's text was rounded on reading.
_EXACT_DIGITS = 15


def parse_usd(text: str) -> int:
    """`"0.50"` -> 500000000 nano-dollars. Raises ManifestError `money-invalid` for all but plain decimals."""
    match = _AMOUNT.fullmatch(text) if text.isascii() else None
    if match is None and text.isascii() and _TOO_LARGE.fullmatch(text):
        raise ManifestError(
            f"{text[:40]!r} is too large an amount, which is at most {LARGEST}",
            remedy=f"Write an amount of at most {LARGEST} dollars.",
            code="money-invalid",
        )
    if match is None:
        raise ManifestError(
            f"{text[:40]!r} is not an amount of dollars",
            remedy='Write a plain decimal with at most 9 places, such as "0.50".',
            code="money-invalid",
        )
    whole, places = match.group(1), match.group(2) or ""
    return int(whole) * NANO + int(places.ljust(9, "0"))


def format_nano(nano: int) -> str:
    """500000000 -> `"0.5"`: no exponent, no trailing zeros, exact."""
    whole, rest = divmod(abs(nano), NANO)
    places = f"{rest:09d}".rstrip("0")
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{places}" if places else f"{sign}{whole}"


def parse_budget(text: str) -> int:
    """An amount as people type it on a command line: `5usd`, `0.25 USD`, `5`. Answers nano-dollars."""
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise ManifestError(
            f"{text[:40]!r} is not a budget",
            remedy="Write an amount of dollars such as 5usd or 0.25usd.",
            code="money-invalid",
        )
    return parse_usd(match.group(1))


def money_text(value: object) -> object:
    """The canonical text of an amount that a manifest may also spell as a number (`usd: 0.50`).

    What is no amount is given back unchanged, for the schema to refuse.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        value = str(value)
    elif isinstance(value, float):
        value = _float_text(value)
    if isinstance(value, str) and value.isascii() and _AMOUNT.fullmatch(value):
        return format_nano(parse_usd(value))
    return value


def _float_text(value: float) -> object:
    text = repr(value)
    if "e" in text or "n" in text:
        text = f"{value:.9f}"
        if float(text) != value:
            return value
    digits = text.replace(".", "").lstrip("0")
    return text.removesuffix(".0") if len(digits) <= _EXACT_DIGITS else value
