"""What tokens cost, exactly: tokens by kind times their price, rounded once, up."""

from __future__ import annotations

from dataclasses import dataclass

from maestro_dagster.manifest.price import round_cost


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Atto-USD a token. None: this list has no price of its own for the kind."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """`tiers` are (n, rates): with more than n prompt tokens these rates hold for the whole call.

    Cached tokens and cache writes without a price of their own cost what input costs. `name` says
    which list and which model; `free` must have been said, no price is not free.
    """

    name: str
    rates: TokenRates = TokenRates()
    tiers: tuple[tuple[int, TokenRates], ...] = ()
    free: bool = False

    def cost_atto(
        self, tokens_in: int, tokens_out: int, *, cached: int = 0, cache_write: int = 0
    ) -> int | None:
        """Atto-USD, exact; None when a needed price is unknown. `tokens_in` includes cached and written."""
        if self.free:
            return 0
        rates = self._rates(tokens_in)
        total = 0
        for tokens, rate in (
            (max(0, tokens_in - cached - cache_write), rates.input),
            (cached, rates.input if rates.cached is None else rates.cached),
            (cache_write, rates.input if rates.cache_write is None else rates.cache_write),
            (tokens_out, rates.output),
        ):
            if tokens and rate is None:
                return None
            total += tokens * (rate or 0)
        return total

    def cost_nano(
        self, tokens_in: int, tokens_out: int, *, cached: int = 0, cache_write: int = 0
    ) -> int | None:
        atto = self.cost_atto(tokens_in, tokens_out, cached=cached, cache_write=cache_write)
        return None if atto is None else round_cost(atto)

    def reserve_nano(self, tokens_in: int, tokens_out: int) -> int | None:
        """The most that such a call can cost, however its prompt tokens turn out to be counted."""
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
            costs.append(tokens_in * dearest + tokens_out * rates.output)
        return round_cost(max(costs))

    def _rates(self, tokens_in: int) -> TokenRates:
        rates = self.rates
        for limit, tier in self.tiers:  # ascending
            if tokens_in > limit:
                rates = TokenRates(
                    input=rates.input if tier.input is None else tier.input,
                    output=rates.output if tier.output is None else tier.output,
                    cached=rates.cached if tier.cached is None else tier.cached,
                    cache_write=rates.cache_write if tier.cache_write is None else tier.cache_write,
                )
        return rates
