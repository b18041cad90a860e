from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from costs_support import make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.event import UsageScope, price_attempt
from maestro_dagster.costs.rate import RateCard
from maestro_dagster.costs.report import cost_report
from maestro_dagster.manifest.money import parse_usd

RATES = RateCard.from_document(
    {
        "version": 1,
        "currency": "USD",
        "rates": [{"valid_from": "2020-01-01", "cpu_second": "0.00001", "gb_written": "0.02",
                   "network_gb_in": {"free": True}, "network_gb_out": "0.09"}],
    }
)  # fmt: skip

events = st.lists(
    st.builds(
        make_event,
        step=st.sampled_from(["a", "b"]),
        kind=st.sampled_from(["llm", "compute", "network"]),
        attempt=st.integers(1, 3),
        model=st.sampled_from(["", "m1", "m2"]),
        provider=st.sampled_from(["p", "q"]),
        cost_nano=st.one_of(st.none(), st.integers(0, 10**15)),
        tokens_in=st.integers(0, 100),
        outcome=st.sampled_from(["ok", "failed"]),
    ),
    max_size=20,
)


@given(events)
@settings(max_examples=50, deadline=None)
def test_each_grouping_adds_up_to_the_total_to_the_nano_dollar(rows: list[Any]) -> None:
    report = cost_report(rows)
    known = sum(row.cost_nano or 0 for row in rows)
    assert parse_usd(report["known_usd"]) == known
    for group in ("by_step", "by_kind", "by_flow"):
        assert sum(parse_usd(line["known_usd"]) for line in report[group]) == known
        assert sum(line["events"] for line in report[group]) == len(rows)
    unknown = sum(row.cost_nano is None for row in rows)
    assert sum(line["events"] for line in report["unknown"]) == report["unknown_events"] == unknown
    assert (report["total_usd"] is None) == (unknown > 0)
    assert json.loads(json.dumps(report)) == report


@given(events, st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_events_does_not_matter(rows: list[Any], rng: Any) -> None:
    before = json.dumps(cost_report(rows))
    rng.shuffle(rows)
    assert json.dumps(cost_report(rows)) == before


def test_failures_attempts_and_open_calls_are_shown() -> None:
    report = cost_report(
        [
            make_event(step="a", attempt=1, cost_nano=7, outcome="failed"),
            make_event(step="a", attempt=2, cost_nano=8),
            make_event(step="b", phase="intent", cost_nano=9, outcome="open"),
        ]
    )
    assert report["failures"] == {"events": 1, "known_usd": "0.000000007"}
    assert report["unsettled"] == {"events": 1, "known_usd": "0.000000009"}
    assert [(line["step"], line["attempts"]) for line in report["by_step"]] == [("a", 2), ("b", 1)]


def test_nothing_used_costs_nothing() -> None:
    assert cost_report([])["total_usd"] == "0"


def test_an_attempt_is_priced_once_however_often_it_is_written() -> None:
    scope = UsageScope("t", "run", "flow", "step", 2)
    made = [
        price_attempt(RATES, scope, started_at=1.75e9, cpu_ms=150, wall_ms=200, bytes_out=10, bytes_stored=99)
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert [(event.kind, event.cost_nano) for event in made[0]] == [
        ("compute", 1500),
        ("network", 1),
        ("storage", 2),
    ]
    assert made[0][0].occurred_at == "2025-06-15T15:06:40.000000Z"


def test_nothing_heavy_is_imported_to_record_and_report() -> None:
    code = (
        "import maestro_dagster.costs.ledger, maestro_dagster.costs.report, maestro_dagster.costs.rate, sys\n"
        "import maestro_dagster.costs.lake, maestro_dagster.costs.compact, maestro_dagster.llm.hub\n"
        "import maestro_dagster.steps.llm_generate, maestro_dagster.steps.llm_plan\n"
        "heavy = {'polars', 'pyarrow', 'duckdb', 'litellm', 'aiohttp', 'dagster', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
