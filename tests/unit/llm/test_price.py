"""Token prices: parts that add up, tiers, what people write, and lists in LiteLLM's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import CostError
from maestro_dagster.llm.interface import ModelUsage
from maestro_dagster.llm.price import TokenPrice, TokenRates
from maestro_dagster.llm.price_map import parse_map, read_price
from maestro_dagster.llm.price_text import read_token_price, write_token_price
from maestro_dagster.manifest.price import round_cost

GPT = read_token_price({"input": "2.5", "cached": "1.25", "output": "10"}, "l#gpt", "test")

rate = st.none() | st.integers(1, 10**15)
rates = st.builds(TokenRates, rate, rate, rate, rate, rate)
tiers = st.dictionaries(st.integers(1, 10**6), rates, max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)
prices = st.builds(TokenPrice, st.just("list#m"), rates, tiers)


@st.composite
def usages(draw: st.DrawFn) -> ModelUsage:
    tokens_in, tokens_out = draw(st.integers(0, 2 * 10**6)), draw(st.integers(0, 10**6))
    cached = draw(st.integers(0, tokens_in))
    written = draw(st.integers(0, tokens_in - cached))
    return ModelUsage(
        tokens_in, tokens_out, tokens_cached=cached, tokens_cache_write=written,
        tokens_reasoning=draw(st.integers(0, tokens_out)),
    )  # fmt: skip


@given(prices, usages())
@settings(max_examples=300, deadline=None)
def test_the_parts_of_a_cost_add_up_to_it(price: TokenPrice, usage: ModelUsage) -> None:
    priced = price.price_usage(usage)
    parts = [priced.nano_in, priced.nano_out, priced.nano_cached, priced.nano_cache_write]
    exact = price.cost_atto(
        usage.tokens_in, usage.tokens_out, cached=usage.tokens_cached,
        cache_write=usage.tokens_cache_write, reasoning=usage.tokens_reasoning,
    )  # fmt: skip
    assert priced.price == "list#m"
    if exact is None:
        assert priced.cost_nano is None
        assert parts == [None] * 4
        return
    assert priced.cost_nano == round_cost(exact) == sum(part or 0 for part in parts)
    assert (priced.nano_cached is None) == (usage.tokens_cached == 0)
    assert (priced.nano_out is None) == (usage.tokens_out == 0)


@given(prices, usages())
@settings(max_examples=300, deadline=None)
def test_no_call_costs_more_than_its_reserve(price: TokenPrice, usage: ModelUsage) -> None:
    reserve, cost = price.reserve_nano(usage.tokens_in, usage.tokens_out), price.price_usage(usage).cost_nano
    if reserve is not None:
        assert cost is not None
        assert cost <= reserve


def test_a_call_is_told_by_kind_of_token() -> None:
    priced = GPT.price_usage(ModelUsage(10_000, 1_000, tokens_cached=8_192))
    assert (priced.nano_in, priced.nano_cached, priced.nano_out, priced.nano_cache_write) == (
        4_520_000, 10_240_000, 10_000_000, None,
    )  # fmt: skip
    assert priced.cost_nano == 24_760_000


def test_parts_that_are_finer_than_a_nano_dollar_share_the_rounding() -> None:
    price = read_token_price({"input": "0.0003", "cached": "0.0001", "output": "0.0004"}, "l#m", "test")
    priced = price.price_usage(ModelUsage(3, 1, tokens_cached=1))  # 0.6 + 0.1 + 0.4 nano-USD
    assert (priced.nano_in, priced.nano_cached, priced.nano_out) == (1, 0, 1)
    assert priced.cost_nano == 2


def test_what_is_free_costs_nothing_and_says_so() -> None:
    priced = TokenPrice("l#m", free=True).price_usage(ModelUsage(5, 5))
    assert (priced.cost_nano, priced.nano_in, priced.nano_out, priced.nano_cached) == (0, 0, 0, None)
    nothing = TokenPrice("l#m").price_usage(ModelUsage(5, 5))
    assert (nothing.cost_nano, nothing.nano_in, nothing.price) == (None, None, "l#m")


def test_reasoning_has_its_own_price_where_the_list_has_one() -> None:
    price = read_token_price({"input": "1", "output": "2", "reasoning": "5"}, "l#m", "test")
    assert price.cost_nano(0, 100, reasoning=40) == 60 * 2000 + 40 * 5000
    assert price.reserve_nano(0, 100) == 100 * 5000
    assert GPT.cost_nano(0, 100, reasoning=40) == 100 * 10_000


@given(prices)
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_back(price: TokenPrice) -> None:
    written = json.loads(json.dumps(write_token_price(price)))
    assert read_token_price(written, price.name, "test") == price


@pytest.mark.parametrize(
    "value",
    [
        5,
        [],
        {"input": 1},
        {"input": "0"},
        {"input": "x"},
        {"input": "-1"},
        {"inptu": "1"},
        {"above": 5},
        {"above": [5]},
        {"above": [{"tokens": "5", "input": "1"}]},
        {"above": [{"tokens": True, "input": "1"}]},
        {"above": [{"tokens": 0, "input": "1"}]},
        {"above": [{"tokens": 5, "input": "1"}, {"tokens": 5, "input": "2"}]},
        {"batch": 5},
        {"input": "1", "batch": {"input": 1}},
        {"free": False},
    ],
)
def test_what_is_no_price_is_refused(value: Any) -> None:
    with pytest.raises(CostError) as caught:
        read_token_price(value, "l#m", "here")
    assert (caught.value.error_code, caught.value.place) == ("price-invalid", "here")


def test_a_list_has_tiers_batches_and_reasoning() -> None:
    price = read_price(
        {
            "input_cost_per_token": "3e-06",
            "output_cost_per_token": "1.5e-05",
            "cache_read_input_token_cost": "3e-07",
            "cache_creation_input_token_cost": "3.75e-06",
            "input_cost_per_token_above_200k_tokens": "6e-06",
            "output_cost_per_token_above_200k_tokens": "2.25e-05",
            "cache_creation_input_token_cost_above_1hr": "6e-06",
            "input_cost_per_token_batches": "1.5e-06",
            "output_cost_per_token_batches": "7.5e-06",
            "input_cost_per_token_above_200k_tokens_batches": "3e-06",
            "output_cost_per_token_priority": "1",
            "output_cost_per_reasoning_token": "1.5e-05",
        },
        "l#m",
    )
    assert write_token_price(price) == {
        "input": "3",
        "output": "15",
        "cached": "0.3",
        "cache_write": "3.75",
        "above": [{"tokens": 200_000, "input": "6", "output": "22.5"}],
        "batch": {"input": "1.5", "output": "7.5", "above": [{"tokens": 200_000, "input": "3"}]},
    }
    assert price.cost_nano(200_000, 1) == 600_015_000
    assert price.cost_nano(200_001, 1) == 1_200_006_000 + 22_500
    assert price.batch is not None
    assert price.batch.cost_nano(200_000, 1) == 300_007_500


def test_prices_by_ranges_of_the_prompt() -> None:
    low = {"range": [0, "32000.0"], "input_cost_per_token": "1e-06", "output_cost_per_token": "2e-06"}
    high = {"range": ["32000.0", "1e5"], "input_cost_per_token": "3e-06", "output_cost_per_token": "4e-06"}
    price = read_price({"tiered_pricing": [low, high]}, "l#m")
    assert price.cost_nano(32_000, 0) == 32_000_000
    assert price.cost_nano(32_001, 1) == 96_003_000 + 4_000
    for broken in (
        [high],
        [low, {**high, "range": ["64000", "1e5"]}],
        [low, 5],
        "x",
        [{**low, "range": [0]}],
    ):
        assert not read_price({"tiered_pricing": broken}, "l#m").known


def test_numbers_of_a_list_are_never_binary() -> None:
    text = b'{"m": {"mode": "chat", "input_cost_per_token": 3.0000000000000001e-07}}'
    entry = parse_map(text, "list")["m"]
    assert entry["input_cost_per_token"] == "3.0000000000000001e-07"
    # Finer than 10^-18 USD a token: cutting it would make every cost wrong, so it is unknown.
    assert not read_price(entry, "l#m").known
    assert parse_map(b'{"m": {"input_cost_per_token": NaN}}', "list")["m"] == {"input_cost_per_token": "NaN"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"m": 5}', b"\xff", b"[" * 100_000])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(CostError) as caught:
        parse_map(data, "list.json")
    assert (caught.value.error_code, caught.value.place) == ("price-list-invalid", "list.json")
