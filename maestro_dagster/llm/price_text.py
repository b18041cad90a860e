"""Token prices as people and price files write them: USD for a million tokens, decimal strings by kind.

    {input: "2.5", cached: "1.25", output: "10", above: [{tokens: 200000, input: "5"}], batch: {...}}

`above` holds for the whole call when its prompt has more tokens than that; `batch` is a price of its own for
calls that are made in a batch. What costs nothing says `{free: true}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maestro_dagster.errors import CostError
from maestro_dagster.llm.price import TokenPrice, TokenRates
from maestro_dagster.manifest.price import format_atto, parse_price

TOKENS_PER_PRICE = 1_000_000
KINDS = ("input", "output", "cached", "cache_write", "reasoning")


def read_token_price(value: Any, name: str, place: str) -> TokenPrice:
    """The price that is called `name`; unknown for None. Raises CostError (`price-invalid`)."""
    if value is None:
        return TokenPrice(name)
    if not isinstance(value, Mapping):
        raise _invalid("a price is a map of token kinds, USD for a million tokens", place)
    if dict(value) == {"free": True}:
        return TokenPrice(name, free=True)
    tiers = value.get("above", ())
    if not isinstance(tiers, list | tuple):
        raise _invalid("`above` is a list", place)
    found: dict[int, TokenRates] = {}
    for tier in tiers:
        tokens = tier.get("tokens") if isinstance(tier, Mapping) else None
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens <= 0 or tokens in found:
            raise _invalid("a tier of `above` has `tokens`, a whole number, each once", place)
        found[tokens] = _read_rates(tier, {"tokens"}, place)
    batch = value.get("batch")
    return TokenPrice(
        name,
        _read_rates(value, {"above", "batch"}, place),
        tuple(sorted(found.items())),
        batch=None if batch is None else read_token_price(batch, f"{name}/batch", place),
    )


def write_token_price(price: TokenPrice) -> dict[str, Any]:
    """What `read_token_price` reads back to the same price; empty for an unknown one."""
    if price.free:
        return {"free": True}
    value: dict[str, Any] = _write_rates(price.rates)
    if price.tiers:
        value["above"] = [{"tokens": tokens, **_write_rates(rates)} for tokens, rates in price.tiers]
    if price.batch is not None:
        value["batch"] = write_token_price(price.batch)
    return value


def _read_rates(value: Mapping[str, Any], besides: set[str], place: str) -> TokenRates:
    unknown = value.keys() - besides - set(KINDS)
    if unknown:
        raise _invalid(f"unknown token kind {min(map(str, unknown))!r}; there are {', '.join(KINDS)}", place)
    rates: dict[str, int] = {}
    for kind in KINDS:
        if kind not in value:
            continue
        if not isinstance(value[kind], str):
            raise _invalid("a price is a decimal string in quotes", place)
        rates[kind] = parse_price(value[kind], units=TOKENS_PER_PRICE, place=place)
        if rates[kind] == 0:
            raise _invalid("a price of zero must be said: {free: true}", place)
    return TokenRates(**rates)


def _write_rates(rates: TokenRates) -> dict[str, str]:
    pairs = ((kind, getattr(rates, kind)) for kind in KINDS)
    return {kind: format_atto(atto * TOKENS_PER_PRICE) for kind, atto in pairs if atto is not None}


def _invalid(fact: str, place: str) -> CostError:
    return CostError(
        fact, place=place, remedy="see the comments in resources/models.yaml", code="price-invalid"
    )
