"""Unit prices finer than a nano-dollar, and the one place where a cost is rounded.

A price is an integer of 10^-18 USD (atto-USD) for one unit, so 0.0000000375 USD a token is exact.
Quantity times price is summed in atto-USD and rounded once per event, up: whatever has a price
costs at least one nano-dollar, and a reservation is never below what it reserves for.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

from maestro_dagster.errors import CostError

ATTO_PER_USD = 10**18
ATTO_PER_NANO = 10**9
_FINEST, _COARSEST = -18, 9  # powers of ten of a price's first digit: bounds the arithmetic


def parse_price(text: str, *, units: int = 1, place: str = "") -> int:
    """Atto-USD for one unit, from a decimal USD string that is the price of `units` units.

    Raises CostError (`price-invalid`) for anything that is not a non-negative decimal, or that is
    finer than 10^-18 USD a unit: cutting it would make every cost wrong.
    """
    try:
        price = Decimal(text)
    except InvalidOperation:
        raise _invalid(text, place) from None
    if not price.is_finite() or price < 0 or not _FINEST <= price.adjusted() <= _COARSEST:
        raise _invalid(text, place)
    atto = Fraction(price) * ATTO_PER_USD / units
    if atto.denominator != 1:
        raise _invalid(text, place)
    return atto.numerator


def round_cost(atto: int) -> int:
    """Nano-USD, rounded up."""
    return -(-atto // ATTO_PER_NANO)


def format_atto(atto: int) -> str:
    """Plain decimal USD, exact: 26250000000 -> "0.00000002625"."""
    whole, rest = divmod(atto, ATTO_PER_USD)
    return f"{whole}.{rest:018d}".rstrip("0").rstrip(".")


def _invalid(text: str, place: str) -> CostError:
    return CostError(
        f"{text!r} is not a price",
        place=place,
        remedy='write a decimal string of USD, for example "0.15"',
        code="price-invalid",
    )
