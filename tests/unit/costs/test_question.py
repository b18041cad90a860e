"""Every question is answered exactly, wherever the usage lies: usage = cubes = reports, difference 0."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import build_cubes
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.question import (
    DIMENSIONS,
    Costs,
    answer,
    month_reach,
    month_to_date,
    period_before,
    read_run,
)
from maestro_dagster.costs.report import cost_report, report_period, report_run, report_top
from maestro_dagster.costs.spool import Spool
from maestro_dagster.manifest.money import parse_usd

DAYS = ("2026-02-27", "2026-02-28", DAY)
EXAMPLES = 200 if os.environ.get("MAESTRO_SOAK") == "1" else 5
ASKED = len(DIMENSIONS) if os.environ.get("MAESTRO_SOAK") == "1" else 3
MOST = 999_999_999_999_999_999  # nano-USD that one event can cost


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def put(spool: Spool, *events: UsageEvent) -> None:
    with spool.open_run(events[0].run_id) as writer:
        writer.append(events)


def event_strategy() -> st.SearchStrategy[UsageEvent]:
    def build(values: dict[str, Any]) -> UsageEvent:
        return make_event(f"run{values.pop('run')}", **values)

    kinds = st.sampled_from(["llm", "compute", "storage"])
    return st.fixed_dictionaries(
        {
            "run": st.integers(0, 2),
            "step": st.sampled_from(["a", "b"]),
            "attempt": st.integers(1, 2),
            "kind": kinds,
            "provider": st.sampled_from(["p", "q"]),
            "model": st.sampled_from(["m", "n", ""]),
            "cost_nano": st.none() | st.integers(0, MOST) | st.integers(0, 9),
            "tokens_in": st.integers(0, 10**9),
            "cpu_ms": st.integers(0, 10**9),
            "outcome": st.sampled_from(["ok", "failed", "cancelled"]),
            "phase": st.sampled_from(["settled", "settled", "intent"]),
            "occurred_at": st.sampled_from([f"{day}T{time}Z" for day in DAYS for time in
                                            ("00:00:00.000000", "23:59:59.999999")]),
        }
    ).map(build)  # fmt: skip


@settings(
    max_examples=200 if os.environ.get("MAESTRO_SOAK") == "1" else 5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(event_strategy(), min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_usage_cubes_and_reports_agree_to_the_nano_dollar(
    events: list[UsageEvent], chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, lake = Spool(Path(folder) / "spool"), open_lake(Path(folder) / "lake")
        for event in events:
            put(spool, event)
            if chance.random() < 0.1:
                put(spool, event)  # said twice
            if chance.random() < 0.2:
                compact_day(spool, lake, event.occurred_at[:10], lambda _: chance.random() < 0.5)
            if chance.random() < 0.2 and lake.usage.manifest(event.occurred_at[:10]):
                assert build_cubes(lake, event.occurred_at[:10]).balanced
        wanted = cost_report(events)
        asked = chance.sample(list(DIMENSIONS), ASKED)
        values = answer(lake, spool, lambda costs: {by: report_period(costs, by) for by in asked})
        for by, value in values.items():
            assert_same(value, wanted, events, by)
        run = wanted["runs"][0]
        of_run = [event for event in events if event.run_id == run]
        assert report_run(read_run(lake, spool, run)) == report_run(of_run)


def assert_same(value: dict[str, Any], wanted: dict[str, Any], events: Sequence[UsageEvent], by: str) -> None:
    for name in ("total_usd", "known_usd", "unknown_events", "tokens_in", "cpu_ms", "events"):
        assert value[name] == wanted[name], name
    assert value["by_kind"] == wanted["by_kind"]
    assert value["by_model"] == wanted["by_model"]
    assert value["by_flow"] == wanted["by_flow"]
    for part in ("failures", "unsettled"):
        assert {name: value[part][name] for name in ("events", "known_usd")} == wanted[part]
    retries = [event.cost_nano or 0 for event in events if event.attempt > 1]
    assert value["retries"]["events"] == len(retries)
    assert parse_usd(value["retries"]["known_usd"]) == sum(retries)
    assert value["unknown"] == merge_unknown(wanted["unknown"])
    if by != "step":  # of a period the flow stands with it
        rows = [{name: item for name, item in row.items() if name != "attempts"}
                for row in report_run(events, by)["rows"]]  # fmt: skip
        assert sorted(map(str, value["rows"])) == sorted(map(str, rows))
    if by != "model":
        assert sum(parse_usd(row["known_usd"]) for row in value["rows"]) == parse_usd(wanted["known_usd"])


def merge_unknown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the price that said so, which no cube has."""
    found: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = row["kind"], row["provider"], row["model"]
        found[key] = found.get(key, 0) + row["events"]
    return [
        dict(zip(("kind", "provider", "model", "events"), (*key, found[key]), strict=True)) for key in found
    ]


def usage(spool: Spool, costs: dict[str, dict[str, int | None]]) -> None:
    """Day -> model -> nano-USD."""
    for day, models in costs.items():
        for model, nano in models.items():
            put(spool, make_event(f"{day}-{model}", provider="p", model=model, cost_nano=nano,
                                  occurred_at=f"{day}T12:00:00.000000Z"))  # fmt: skip


def ask(lake: Lake, spool: Spool, question: Callable[[Costs], Any], **period: str) -> Any:
    return answer(lake, spool, question, **period)


def test_top_tells_the_dearest_and_what_changed_most(lake: Lake, spool: Spool) -> None:
    usage(spool, {
        "2026-02-25": {"outside": 999},
        "2026-02-27": {"up": 10, "down": 50, "same": 70, "gone": 5},
        "2026-02-28": {"up": 10},
        "2026-03-01": {"up": 40, "down": 20, "same": 70, "new": 8},
        "2026-03-02": {"up": 2, "dark": None},
    })  # fmt: skip
    value = ask(
        lake, spool, lambda costs: report_top(costs, "model", since="2026-03-01", until="2026-03-02", limit=3)
    )
    assert (value["before"]["since"], value["before"]["until"]) == ("2026-02-27", "2026-02-28")
    assert (value["known_usd"], value["more_usd"]) == ("0.00000014", "-0.000000005")
    assert [row["model"] for row in value["dearest"]] == ["same", "up", "down"]
    changed = [(row["model"], parse_usd(row["more_usd"].removeprefix("-"))) for row in value["changed"]]
    assert changed == [("down", 30), ("up", 22), ("new", 8)]
    assert value["changed"][0]["more_usd"] == "-0.00000003"
    assert value["unknown"] == [{"kind": "llm", "provider": "p", "model": "dark", "events": 1}]
    assert value["total_usd"] is None


def test_month_to_date_stands_beside_the_same_days_before(lake: Lake, spool: Spool) -> None:
    usage(spool, {
        "2026-02-01": {"a": 1}, "2026-02-28": {"a": 2}, "2026-03-01": {"a": 4},
        "2026-03-30": {"a": 8, "b": 16}, "2026-03-31": {"a": 32},
    })  # fmt: skip
    month = ask(
        lake, spool, lambda costs: month_to_date(costs, "2026-03-30"), since=month_reach("2026-03-30")
    )
    assert (month.total.nano, month.before.nano) == (28, 3)
    assert month.days == (("2026-03-01", 4), ("2026-03-30", 24))
    assert [(group.name[1], group.nano) for group in month.models] == [("b", 16), ("a", 12)]
    assert month_reach("2026-01-15") == "2025-12-01"
    assert period_before("2026-03-01", "2026-03-01") == ("2026-02-28", "2026-02-28")


def test_of_many_runs_the_dearest_are_named_and_the_others_counted(
    lake: Lake, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.costs.report._MOST_RUNS", 2)
    for number in range(5):
        put(spool, make_event(f"run{number}", cost_nano=number))
    value = ask(lake, spool, lambda costs: report_period(costs, "run"))
    assert [row["run_id"] for row in value["rows"]] == ["run4", "run3"]
    assert value["rows_left_out"] == 3


def test_a_sum_larger_than_any_event_is_exact(lake: Lake, spool: Spool) -> None:
    put(spool, *(make_event(cost_nano=MOST) for _ in range(11)))
    assert ask(lake, spool, lambda costs: costs.total()).nano == 11 * MOST
    compact_day(spool, lake, DAY, lambda _: True)
    assert build_cubes(lake, DAY).sum_nano == 11 * MOST
    assert ask(lake, spool, lambda costs: costs.total()).nano == 11 * MOST


def test_names_cannot_reach_the_query(lake: Lake, spool: Spool) -> None:
    put(spool, make_event("'; DROP VIEW usage; --", cost_nano=1))
    compact_day(spool, lake, DAY, lambda _: True)
    assert [event.cost_nano for event in read_run(lake, spool, "'; DROP VIEW usage; --")] == [1]
    with pytest.raises(ValueError, match="Invalid isoformat"):
        ask(lake, spool, lambda costs: costs.total("2026-03-01' OR 1=1 --"))
