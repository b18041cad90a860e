"""Costs of model calls against examples worked out by others: exact decimals, no float anywhere."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.llm.interface import ModelUsage
from maestro_dagster.llm.price_book import PriceBook, make_snapshot, write_snapshot
from maestro_dagster.llm.price_map import find_model, read_price
from maestro_dagster.manifest.price import format_atto, round_cost


def _read(corpus: Path, name: str) -> Any:
    path = corpus / "10-llm-pricing" / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the corpus")
    return json.loads(path.read_text(encoding="utf-8"), parse_float=str)


def test_every_worked_example_comes_out_exactly(corpus: Path) -> None:
    prices = _read(corpus, "model_prices_excerpt.json")
    cases = _read(corpus, "worked_examples.json")["cases"]
    assert cases
    for case in cases:
        price = read_price(prices[case["model"]], case["model"])
        atto = price.cost_atto(
            case["prompt_tokens"],
            case["completion_tokens"],
            cached=case.get("cached_tokens") or 0,
            cache_write=case.get("cache_creation_tokens") or 0,
        )
        assert atto is not None, case
        calls = case.get("sum_over_calls", 1)
        assert Decimal(format_atto(atto * calls)) == Decimal(case["cost_usd"]), case
        # The same in whole nano-dollars, one call at a time: never below the exact cost.
        total = round_cost(atto) * calls
        assert 0 <= total - Decimal(case["cost_usd"]) * 10**9 < calls, case
        if not atto % 10**9:
            assert Decimal(total).scaleb(-9) == Decimal(case["cost_usd"])


def test_every_worked_example_comes_out_exactly_by_a_snapshot_and_by_kind_of_token(
    corpus: Path, tmp_path: Path
) -> None:
    """The way of a real call: list, dated snapshot on disk, price of the day, usage of the reply, event."""
    prices = _read(corpus, "model_prices_excerpt.json")
    made = make_snapshot(prices, "2026-01-01", "the corpus", b"")
    write_snapshot(tmp_path, made)
    book = PriceBook(tmp_path)
    fields = {
        "input": "nano_in",
        "output": "nano_out",
        "cache_read": "nano_cached",
        "cache_creation": "nano_cache_write",
    }
    for case in _read(corpus, "worked_examples.json")["cases"]:
        usage = book.find([case["model"]], "2026-06-01").price_usage(
            ModelUsage(
                case["prompt_tokens"],
                case["completion_tokens"],
                tokens_cached=case.get("cached_tokens") or 0,
                tokens_cache_write=case.get("cache_creation_tokens") or 0,
            )
        )
        calls = case.get("sum_over_calls", 1)
        exact = Decimal(case["cost_usd"]).scaleb(9) / calls
        assert usage.cost_nano == exact.to_integral_value(ROUND_CEILING), case
        parts = {name: getattr(usage, name) for name in fields.values()}
        assert sum(part or 0 for part in parts.values()) == usage.cost_nano, case
        told: dict[str, Decimal] = {}
        for term in case.get("terms", ()):
            name = next(name for start, name in fields.items() if term["field"].startswith(start))
            told[name] = told.get(name, Decimal(0)) + Decimal(term["cost"]).scaleb(9)
        if told:
            assert {name for name, part in parts.items() if part is not None} == told.keys(), case
            assert all(abs(parts[name] - cost) < 1 for name, cost in told.items()), case


def test_every_entry_of_the_price_list_is_read_to_the_last_digit(corpus: Path) -> None:
    prices = _read(corpus, "model_prices_excerpt.json")
    priced = 0
    for name, entry in prices.items():
        price = read_price(entry, name)
        for field, rate in (
            ("input_cost_per_token", price.rates.input),
            ("output_cost_per_token", price.rates.output),
        ):
            if field in entry:
                assert (rate or 0) == Decimal(str(entry[field])) * 10**18, (name, field)
            priced += bool(rate)
    assert priced > 50


def test_what_no_list_knows_costs_an_unknown_amount() -> None:
    assert find_model("no-such-model-anywhere") is None
    nothing = read_price({}, "nobody")
    assert nothing.cost_nano(1, 1) is None
    assert nothing.cost_nano(0, 0) == 0
    assert nothing.reserve_nano(1, 1) is None
    assert (
        read_price({"input_cost_per_token": "0.0", "output_cost_per_token": "0"}, "zero").cost_nano(1, 1)
        is None
    )
    assert read_price({"input_cost_per_token": "nan"}, "broken").cost_nano(1, 0) is None
