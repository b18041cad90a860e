"""Events of an attempt: one quantity and one price in each, exact, the same however often they are made."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.event import DEFAULT_RETENTION_TIER, UsageScope, price_attempt
from maestro_dagster.costs.rate import RateCard

SCOPE = UsageScope(
    "acme", "run-1", "flow", "step", 2, project="shop", retention_tier="short-30d", subject="5e1f"
)
PRICES = {
    "cpu_second": "0.0000125",
    "gb_second": "0.0000014",
    "gb_written": "0.023",
    "network_gb_in": "0.01",
    "network_gb_out": "0.09",
}
QUANTITIES = {"cpu_second": ("cpu_ms", 1000), "gb_second": ("memory_kb_ms", 10**9),
              "gb_written": ("bytes_stored", 10**9), "network_gb_in": ("bytes_in", 10**9),
              "network_gb_out": ("bytes_out", 10**9)}  # fmt: skip


def card(**prices: Any) -> RateCard:
    rates = [{"valid_from": "2026-01-01", **prices}]
    return RateCard.from_document({"version": 1, "currency": "USD", "rates": rates})


def price(rates: RateCard, **used: int) -> list[Any]:
    used = {"cpu_ms": 0, "wall_ms": 0, **used}
    return price_attempt(rates, SCOPE, started_at=1.78e9, **used)  # in May 2026


def test_each_kind_of_use_is_an_event_with_its_own_price() -> None:
    events = price(card(**PRICES), cpu_ms=1500, wall_ms=2000, memory_kb_ms=2 * 10**9, bytes_in=10**9,
                   bytes_out=2 * 10**9, bytes_stored=10**9)  # fmt: skip
    assert [(event.kind, event.cost_nano, event.price.partition("#")[2]) for event in events] == [
        ("compute", 18_750, "cpu_second"),
        ("memory", 2_800, "gb_second"),
        ("network", 10_000_000, "network_gb_in"),
        ("network", 180_000_000, "network_gb_out"),
        ("storage", 23_000_000, "gb_written"),
    ]
    assert len({event.event_id for event in events}) == 5
    assert all(not (event.bytes_in and event.bytes_out) for event in events)
    assert sum(event.memory_kb_ms for event in events) == 2 * 10**9
    assert events == price(card(**PRICES), cpu_ms=1500, wall_ms=2000, memory_kb_ms=2 * 10**9, bytes_in=10**9,
                           bytes_out=2 * 10**9, bytes_stored=10**9)  # fmt: skip


def test_what_was_not_used_makes_no_event() -> None:
    assert [event.kind for event in price(card(**PRICES), wall_ms=5)] == ["compute"]


def test_events_say_whose_they_are_and_how_long_they_are_kept() -> None:
    (event,) = price(card(**PRICES))
    assert (event.tenant, event.project, event.retention_tier, event.subject) == (
        "acme", "shop", "short-30d", "5e1f",
    )  # fmt: skip
    plain = UsageScope("t", "r", "f", "s", 1)
    assert (plain.project, plain.retention_tier, plain.subject) == ("default", DEFAULT_RETENTION_TIER, "")


def test_a_missing_price_is_an_unknown_cost_that_names_the_missing_line() -> None:
    events = price(card(cpu_second="1"), cpu_ms=1, memory_kb_ms=1, bytes_in=1, bytes_out=1, bytes_stored=1)
    assert [event.cost_nano for event in events] == [1_000_000, None, None, None, None]
    assert [event.price for event in events[1:]] == [
        f"rates@2026-01-01#{unit}" for unit in ("gb_second", "network_gb_in", "network_gb_out", "gb_written")
    ]
    early = price_attempt(card(**PRICES), SCOPE, started_at=0, cpu_ms=1, wall_ms=1)
    assert (early[0].cost_nano, early[0].price) == (None, "rates@none#cpu_second")


def test_wall_time_costs_where_the_card_says_so() -> None:
    (plain,) = price(card(cpu_second="0.001"), cpu_ms=1000, wall_ms=10_000)
    (held,) = price(card(cpu_second={"free": True}, wall_second="0.0001"), cpu_ms=1000, wall_ms=10_000)
    (both,) = price(card(cpu_second="0.001", wall_second="0.0001"), cpu_ms=1000, wall_ms=10_000)
    assert [event.cost_nano for event in (plain, held, both)] == [1_000_000, 1_000_000, 2_000_000]
    assert both.price == "rates@2026-01-01#cpu_second+wall_second"
    assert card(**PRICES).missing_units("2026-05-01") == ()
    assert set(card().missing_units("2026-05-01")) == set(PRICES)


@given(st.dictionaries(st.sampled_from(sorted(PRICES)), st.integers(0, 10**15)))
@settings(max_examples=100, deadline=None)
def test_every_event_is_its_quantity_times_its_price_rounded_up(used: dict[str, int]) -> None:
    events = price(card(**PRICES), **{QUANTITIES[unit][0]: amount for unit, amount in used.items()})
    found = {event.price.partition("#")[2]: event.cost_nano for event in events}
    for unit, amount in used.items():
        exact = Fraction(PRICES[unit]) * 10**9 * amount / QUANTITIES[unit][1]
        assert 0 <= found.get(unit, 0) - exact < 1
