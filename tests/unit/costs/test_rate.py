from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.rate import RateCard
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.price import format_atto, parse_price, round_cost


def card(*entries: dict[str, Any]) -> RateCard:
    return RateCard.from_document({"version": 1, "currency": "USD", "rates": list(entries)})


def test_the_shipped_card_prices_every_unit(repository: Path) -> None:
    rates = RateCard.load(repository / "resources" / "rates.yaml")
    assert rates.price_compute(1000, "2026-03-01") == (12_500, "rates@2020-01-01#cpu_second")
    assert rates.price_storage(10**9, "2026-03-01") == (23_000_000, "rates@2020-01-01#gb_written")
    assert rates.price_network(10**12, 0, "2026-03-01")[0] == 0
    assert rates.price_network(0, 10**9, "2026-03-01")[0] == 90_000_000
    assert rates.price_memory(10**9, "2026-03-01") == (1_400, "rates@2020-01-01#gb_second")


def test_the_newest_entry_not_after_the_day_counts() -> None:
    rates = card(
        {"valid_from": "2026-01-01", "cpu_second": "0.001"},
        {"valid_from": "2026-02-01", "cpu_second": "0.002"},
    )
    assert rates.price_compute(1000, "2025-12-31") == (None, "rates@none#cpu_second")
    assert rates.price_compute(1000, "2026-01-01")[0] == 1_000_000
    assert rates.price_compute(1000, "2026-01-31T23:59:59.999999Z")[0] == 1_000_000
    assert rates.price_compute(1000, "2026-02-01T00:00:00.000000Z")[0] == 2_000_000


def test_no_price_is_unknown_and_never_zero() -> None:
    rates = card({"valid_from": "2026-01-01", "network_gb_in": {"free": True}})
    assert rates.price_compute(1, "2026-03-01")[0] is None
    assert rates.price_storage(1, "2026-03-01")[0] is None
    assert rates.price_network(10**9, 0, "2026-03-01")[0] == 0
    assert rates.price_network(10**9, 1, "2026-03-01")[0] is None


def test_what_has_a_price_costs_at_least_a_nano_dollar() -> None:
    rates = card({"valid_from": "2026-01-01", "gb_written": "0.000000001"})
    assert rates.price_storage(1, "2026-03-01")[0] == 1
    assert rates.price_storage(0, "2026-03-01")[0] == 0


amounts = st.decimals(min_value=0, max_value=1000, places=9, allow_nan=False, allow_infinity=False)


@given(amounts.filter(bool), st.integers(0, 10**15))
@settings(max_examples=80, deadline=None)
def test_costs_are_exact_and_rounded_up_once(price: Any, quantity: int) -> None:
    rates = card({"valid_from": "2026-01-01", "cpu_second": f"{price:f}", "gb_written": f"{price:f}"})
    for nano, unit in ((rates.price_compute(quantity, "2026-03-01")[0], 1000),
                       (rates.price_storage(quantity, "2026-03-01")[0], 10**9)):  # fmt: skip
        exact = Fraction(price) * 10**9 * quantity / unit
        assert nano is not None
        assert 0 <= nano - exact < 1


@given(st.integers(0, 10**24))
def test_atto_dollars_print_exactly(atto: int) -> None:
    assert parse_price(format_atto(atto)) == atto if atto <= 10**27 else True
    assert Fraction(format_atto(atto)) == Fraction(atto, 10**18)
    assert round_cost(atto) * 10**9 - atto in range(10**9)


@pytest.mark.parametrize("text", ["", "x", "-1", "NaN", "Infinity", "1e99", "1e-19", "0.0000000000000000001"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(CostError) as caught:
        parse_price(text)
    assert caught.value.error_code == "price-invalid"


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"version": 2, "currency": "USD", "rates": []},
        {"version": 1, "currency": "EUR", "rates": []},
        {"version": 1, "currency": "USD", "rates": {}},
        {"version": 1, "currency": "USD", "rates": [], "more": 1},
        {"version": 1, "currency": "USD", "rates": ["x"]},
        {"version": 1, "currency": "USD", "rates": [{"valid_from": "soon"}]},
        {"version": 1, "currency": "USD", "rates": [{"valid_from": "2026-01-01", "cpu": "1"}]},
        {"version": 1, "currency": "USD", "rates": [{"valid_from": "2026-01-01", "cpu_second": 0.1}]},
        {"version": 1, "currency": "USD", "rates": [{"valid_from": "2026-01-01", "cpu_second": "0"}]},
        {
            "version": 1,
            "currency": "USD",
            "rates": [{"valid_from": "2026-01-01", "cpu_second": {"free": "yes"}}],
        },
        {
            "version": 1,
            "currency": "USD",
            "rates": [{"valid_from": "2026-02-01"}, {"valid_from": "2026-01-01"}],
        },
        {
            "version": 1,
            "currency": "USD",
            "rates": [{"valid_from": "2026-01-01"}, {"valid_from": "2026-01-01"}],
        },
    ],
)
def test_a_wrong_card_is_refused(document: Any) -> None:
    with pytest.raises(CostError) as caught:
        RateCard.from_document(document)
    assert caught.value.error_code == "rates-invalid"


def test_a_card_that_is_not_there_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostError) as caught:
        RateCard.load(tmp_path / "rates.yaml")
    assert caught.value.error_code == "rates-missing"
    (tmp_path / "rates.yaml").write_text("a: [1, 2")
    with pytest.raises(CostError) as caught:
        RateCard.load(tmp_path / "rates.yaml")
    assert caught.value.error_code == "rates-invalid"
