from __future__ import annotations

import tempfile
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.export import export_usage
from maestro_dagster.costs.focus import COLUMNS, Charge, focus_batches, focus_schema
from maestro_dagster.costs.frame import frame_events, table_of
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.usage_day import list_usage_days

NANO = Decimal("0.000000001")
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip


def event(kind: str = "llm", **values: Any) -> UsageEvent:
    """A call whose parts add up to its cost, when parts are given."""
    parts = [values.get(name) for name in ("nano_in", "nano_out", "nano_cached", "nano_cache_write")]
    if any(part is not None for part in parts):
        values.setdefault("cost_nano", sum(part or 0 for part in parts))
    names = (
        {"provider": "anthropic", "model": "m1", "price": "list@1"} if kind == "llm" else {"price": "rates@1"}
    )
    base = make_event(kind=kind, **{k: v for k, v in values.items() if k in _MADE}, **names)
    return replace(base, **{k: v for k, v in values.items() if k not in _MADE})


_MADE = {
    "event_id", "phase", "tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out",
    "cost_nano", "outcome", "occurred_at", "step", "attempt",
}  # fmt: skip


def rows_of(events: list[UsageEvent]) -> list[dict[str, Any]]:
    table = table_of(frame_events(events))
    with tempfile.TemporaryDirectory() as folder:
        return [row for batch in focus_batches(table.to_batches(), Path(folder)) for row in batch.to_pylist()]


def by_meter(events: list[UsageEvent]) -> dict[str, dict[str, Any]]:
    return {row["SkuMeter"]: row for row in rows_of(events)}


def test_a_call_is_a_row_for_each_kind_of_token() -> None:
    rows = by_meter(
        [
            event(
                tokens_in=1000, tokens_cached=300, tokens_cache_write=200, tokens_out=50,
                nano_in=1500, nano_cached=90, nano_cache_write=750, nano_out=751,
            )
        ]
    )  # fmt: skip
    assert {meter: (row["ConsumedQuantity"], row["BilledCost"] / NANO) for meter, row in rows.items()} == {
        "Input Tokens": (500, 1500),
        "Cached Input Tokens": (300, 90),
        "Cache Write Tokens": (200, 750),
        "Output Tokens": (50, 751),
    }
    row = rows["Input Tokens"]
    assert (row["PricingQuantity"], row["PricingUnit"], row["ConsumedUnit"]) == (
        Decimal("0.0005"), "1000000 Tokens", "Tokens",
    )  # fmt: skip
    assert row["ListUnitPrice"] == Decimal("0.003")  # USD for a million tokens
    assert (row["ServiceCategory"], row["ServiceName"], row["SkuId"]) == (
        "AI and Machine Learning", "anthropic API", "anthropic/m1",
    )  # fmt: skip
    assert (row["ChargePeriodStart"].isoformat(), row["ChargePeriodEnd"].isoformat()) == (
        f"{DAY}T10:00:00+00:00",
        f"{DAY}T11:00:00+00:00",
    )
    assert (row["BillingPeriodStart"].date().isoformat(), row["BillingPeriodEnd"].date().isoformat()) == (
        "2026-03-01",
        "2026-04-01",
    )
    assert row["Tags"] == '{"env":"dev","flow":"flow","project":"default","step":"step"}'


def test_other_work_is_measured_in_the_units_of_its_rates() -> None:
    rows = by_meter(
        [
            event("compute", event_id="1", cpu_ms=1500, cost_nano=15_000),
            event("memory", event_id="2", memory_kb_ms=2 * 10**9, cost_nano=2800),
            event("network", event_id="3", bytes_in=5 * 10**8, cost_nano=0),
            event("network", event_id="4", bytes_out=10**9, cost_nano=90_000_000),
            event("storage", event_id="5", bytes_out=1, cost_nano=1),
        ]
    )
    assert {meter: (row["PricingQuantity"], row["PricingUnit"]) for meter, row in rows.items()} == {
        "CPU Time": (Decimal("1.5"), "CPU-Seconds"),
        "Memory": (Decimal(2), "GB-Seconds"),
        "Network In": (Decimal("0.5"), "GB"),
        "Network Out": (Decimal(1), "GB"),
        "Storage Written": (Decimal("1E-9"), "GB"),
    }
    assert rows["CPU Time"]["ListUnitPrice"] == Decimal("0.00001")
    assert rows["Network In"]["ListUnitPrice"] == 0
    assert {row["ServiceCategory"] for row in rows.values()} == {"Compute", "Networking", "Storage"}


def test_open_calls_whole_prices_fees_and_credits_have_meters_of_their_own() -> None:
    rows = by_meter(
        [
            event(event_id="1", phase="intent", cost_nano=100, outcome="open", tokens_in=5),
            event(event_id="2", cost_nano=7, tokens_in=5, tokens_out=5),
            event("compute", event_id="3", cpu_ms=0, cost_nano=1),
            event("compute", event_id="4", cpu_ms=0, cost_nano=0),
            event(event_id="5", cost_nano=None, tokens_in=10**6, nano_out=5),
        ]
    )
    assert {meter: (row["BilledCost"] / NANO, row["PricingQuantity"]) for meter, row in rows.items()} == {
        "Unsettled Model Calls": (100, 1),
        "Model Calls": (7, 1),
        "Other Charges": (1, 1),
    }
    (credit,) = rows_of([event(event_id="6", cost_nano=-250)])
    assert (credit["ChargeCategory"], credit["BilledCost"] / NANO) == ("Credit", -250)
    assert credit["PricingCurrencyEffectiveCost"] == Decimal("-0.00000025")
    assert credit["PricingCurrency"] == "USD"
    for name in ("PricingQuantity", "PricingUnit", "ConsumedQuantity", "ListUnitPrice", "SkuId", "SkuMeter"):
        assert credit[name] is None


def test_calls_of_an_hour_and_step_are_one_row_and_others_are_apart() -> None:
    def call(number: int, **values: Any) -> UsageEvent:
        return event(event_id=str(number), tokens_in=3, nano_in=10, **values)

    same = rows_of([call(1), call(2, occurred_at=f"{DAY}T10:59:59.999999Z")])
    assert [(row["x_Events"], row["ConsumedQuantity"], row["BilledCost"] / NANO) for row in same] == [
        (2, 6, 20)
    ]
    assert len(rows_of([call(1), call(2, occurred_at=f"{DAY}T11:00:00.000000Z")])) == 2
    assert len(rows_of([call(1), call(2, outcome="failed")])) == 2
    assert len(rows_of([call(1), call(2, step="other")])) == 2


_COUNT = st.one_of(st.just(0), st.integers(1, 10**9))
_PART = st.one_of(st.none(), st.integers(0, 10**12))
_EVENTS = st.lists(
    st.builds(
        event,
        kind=st.sampled_from(["llm", "compute", "memory", "network", "storage", "something new"]),
        phase=st.sampled_from(["settled", "settled", "intent"]),
        step=st.sampled_from(["a", "b"]),
        cost_nano=st.one_of(st.none(), st.integers(-(10**9), 10**14)),
        tokens_in=_COUNT, tokens_out=_COUNT, tokens_cached=_COUNT, tokens_cache_write=_COUNT,
        cpu_ms=_COUNT, memory_kb_ms=_COUNT, bytes_in=_COUNT, bytes_out=_COUNT,
        nano_in=_PART, nano_out=_PART, nano_cached=_PART, nano_cache_write=_PART,
    ),
    max_size=12,
)  # fmt: skip


@given(_EVENTS)
@settings(max_examples=20, deadline=None)
def test_no_nano_dollar_is_lost_whatever_the_events_say(events: list[UsageEvent]) -> None:
    rows = rows_of(events)
    known = sum(event.cost_nano for event in events if event.cost_nano is not None)
    assert sum(row["BilledCost"] for row in rows) == known * NANO
    for row in rows:
        assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"] == row["ContractedCost"]
        if row["ChargeCategory"] == "Usage" and row["PricingQuantity"] < 10**8:
            product = row["ListUnitPrice"] * row["PricingQuantity"]
            if row["BilledCost"] >= 0:
                assert product.quantize(NANO, ROUND_HALF_UP) == row["BilledCost"]


def test_charges_stand_at_the_end_and_count_in_the_sum(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    lake = open_lake(tmp_path / "lake")
    with lake.usage.lock_day(DAY):
        lake.usage.write_day(DAY, table_of(frame_events([event(tokens_in=1, nano_in=5)])))
    charges = [
        Charge("t", 1_000_000_001, "Share", "2026-03-01T00:00:00Z", tags=(("line", "rent"),)),
        Charge("t", -3, "Credit of the vendor", "2026-03-01T00:00:00Z"),
    ]
    told = export_usage(list_usage_days(lake), tmp_path / "f.parquet", "focus", charges=charges)
    assert (told.rows, told.events, told.sum_nano) == (3, 1, 1_000_000_003)
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert [row["ChargeCategory"] for row in rows] == ["Usage", "Usage", "Credit"]
    assert rows[1]["Tags"] == '{"line":"rent"}'
    assert rows[1]["BillingPeriodEnd"].date().isoformat() == "2026-04-01"
    assert rows[2]["PricingQuantity"] is None


def test_the_columns_are_those_of_the_specification() -> None:
    import pyarrow as pa

    assert set(COLUMNS) >= MANDATORY
    assert all(name.startswith("x_") or name[0].isupper() for name in COLUMNS)
    schema = focus_schema()
    for name in COLUMNS:
        if name.endswith(("Cost", "Quantity", "Price")):
            assert pa.types.is_decimal(schema.field(name).type), name
        if name.endswith(("PeriodStart", "PeriodEnd")):
            assert schema.field(name).type == pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize("column", ["subject", "iteration", "retention_tier"])
def test_what_points_to_a_person_is_not_handed_out_in_focus(column: str) -> None:
    assert not any(column in name.lower() for name in COLUMNS)
