"""Unit prices finer than a nano-dollar, and the one place where a cost is rounded or divided.

A price is an integer of 10^-18 USD (atto-USD) for one unit, so 0.0000000375 USD a token is exact.
Quantity times price is summed in atto-USD and rounded once per event, up: whatever has a price
costs at least one nano-dollar, and a reservation is never below what it reserves for. Parts of an
amount are rounded by largest remainder (Hamilton's method), so they always add up to the amount.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def round_parts(parts: Sequence[int]) -> list[int]:
    """Atto-USD of each part of one cost to nano-USD: they add up to `round_cost(sum(parts))`, and none is
    a whole nano-dollar away from what it exactly is.
    """
    nano = [atto // ATTO_PER_NANO for atto in parts]
    left = round_cost(sum(parts)) - sum(nano)
    return _spread(nano, [atto % ATTO_PER_NANO for atto in parts], left)


def split_amount(amount: int, weights: Sequence[int]) -> list[int]:
    """A whole amount (negative for a credit) in proportion to the weights, to the last unit.

    On equal remainders the earlier part gets the unit. Raises CostError (`weights-invalid`) for a negative
    weight, or when no weight is above zero and there is an amount to split.
    """
    whole = sum(weights)
    if min(weights, default=0) < 0 or (amount and not whole):
        raise CostError(
            "an amount is divided by weights of which none is negative and one is above zero",
            remedy="give another key, or leave the amount undivided",
            code="weights-invalid",
        )
    if not whole:
        return [0] * len(weights)
    shares = [abs(amount) * weight // whole for weight in weights]
    rests = [abs(amount) * weight % whole for weight in weights]
    shares = _spread(shares, rests, abs(amount) - sum(shares))
    return shares if amount >= 0 else [-share for share in shares]


def _spread(shares: list[int], rests: Sequence[int], left: int) -> list[int]:
    """One unit more for each of the `left` largest rests."""
    order = sorted(range(len(shares)), key=lambda index: (-rests[index], index))
    for index in order[:left]:
        shares[index] += 1
    return shares


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
