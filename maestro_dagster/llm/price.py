"""What tokens cost, exactly: tokens by kind times their price, rounded once, up."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from maestro_dagster.llm.interface import ModelUsage
from maestro_dagster.manifest.price import round_cost, round_parts


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Atto-USD a token. None: this list has no price of its own for the kind."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    def over(self, below: TokenRates) -> TokenRates:
        """These rates, and those of `below` where these say nothing."""
        return TokenRates(
            *(
                getattr(below if getattr(self, kind) is None else self, kind)
                for kind in (field.name for field in fields(TokenRates))
            )
        )


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """`tiers` are (n, rates): with more than n prompt tokens these rates hold for the whole call.

    Cached tokens and cache writes without a price of their own cost what input costs, reasoning tokens what
    output costs. `name` says which list and which model; `free` must have been said, no price is not free.
    `batch` is the price of calls that are made in a batch, which no step does today.
    """

    name: str
    rates: TokenRates = TokenRates()
    tiers: tuple[tuple[int, TokenRates], ...] = ()
    free: bool = False
    batch: TokenPrice | None = None

    @property
    def known(self) -> bool:
        """Whether this says a price at all."""
        return self.free or self.rates != TokenRates() or bool(self.tiers)

    def cost_atto(
        self, tokens_in: int, tokens_out: int, *, cached: int = 0, cache_write: int = 0, reasoning: int = 0
    ) -> int | None:
        """Atto-USD, exact; None when a needed price is unknown.

        `tokens_in` includes the cached and written ones, `tokens_out` those of reasoning.
        """
        parts = self._parts(tokens_in, tokens_out, cached, cache_write, reasoning)
        return None if parts is None else sum(parts)

    def cost_nano(
        self, tokens_in: int, tokens_out: int, *, cached: int = 0, cache_write: int = 0, reasoning: int = 0
    ) -> int | None:
        atto = self.cost_atto(
            tokens_in, tokens_out, cached=cached, cache_write=cache_write, reasoning=reasoning
        )
        return None if atto is None else round_cost(atto)

    def price_usage(self, usage: ModelUsage) -> ModelUsage:
        """The usage with its cost, the parts of the cost and the name of this price."""
        cached, written = usage.tokens_cached, usage.tokens_cache_write
        parts = self._parts(usage.tokens_in, usage.tokens_out, cached, written, usage.tokens_reasoning)
        if parts is None:
            return replace(usage, cost_nano=None, price=self.name)
        counts = (max(0, usage.tokens_in - cached - written), cached, written, usage.tokens_out)
        rounded = round_parts(parts)
        fresh, read, write, out = (
            nano if tokens else None for nano, tokens in zip(rounded, counts, strict=True)
        )
        return replace(
            usage,
            cost_nano=sum(rounded),
            price=self.name,
            nano_in=fresh,
            nano_cached=read,
            nano_cache_write=write,
            nano_out=out,
        )

    def reserve_nano(self, tokens_in: int, tokens_out: int) -> int | None:
        """The most that such a call can cost, however its tokens turn out to be counted."""
        if self.free:
            return 0
        all_rates = [
            self._rates(0),
            *(self._rates(limit + 1) for limit, _ in self.tiers if limit < tokens_in),
        ]
        costs = []
        for rates in all_rates:
            if rates.input is None or rates.output is None:
                return None
            dearest = max(rates.input, rates.cached or 0, rates.cache_write or 0)
            costs.append(tokens_in * dearest + tokens_out * max(rates.output, rates.reasoning or 0))
        return round_cost(max(costs))

    def _parts(
        self, tokens_in: int, tokens_out: int, cached: int, cache_write: int, reasoning: int
    ) -> tuple[int, int, int, int] | None:
        """Atto-USD of (other input, cached input, written input, output); None when a price is missing."""
        if self.free:
            return 0, 0, 0, 0
        rates = self._rates(tokens_in)
        costs: list[int] = []
        for tokens, own, instead in (
            (max(0, tokens_in - cached - cache_write), rates.input, None),
            (cached, rates.cached, rates.input),
            (cache_write, rates.cache_write, rates.input),
            (max(0, tokens_out - reasoning), rates.output, None),
            (reasoning, rates.reasoning, rates.output),
        ):
            rate = instead if own is None else own
            if tokens and rate is None:
                return None
            costs.append(tokens * (rate or 0))
        fresh, read, written, said, thought = costs
        return fresh, read, written, said + thought

    def _rates(self, tokens_in: int) -> TokenRates:
        rates = self.rates
        for limit, tier in self.tiers:  # ascending
            if tokens_in > limit:
                rates = tier.over(rates)
        return rates
