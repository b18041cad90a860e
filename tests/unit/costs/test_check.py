from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.check import CheckOutcome, check_equality, check_money
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import build_cubes
from maestro_dagster.costs.frame import frame_events, table_of
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.schema import usage_schema
from maestro_dagster.costs.spool import Spool
from maestro_dagster.manifest.money import format_nano

NONE = usage_schema().empty_table()


def table(*events: Any) -> pa.Table:
    return table_of(frame_events(events))


def event(**values: Any) -> Any:
    return make_event(**{"cost_nano": 5, "price": "p@1", **values})


def wrong(outcome: CheckOutcome) -> list[str]:
    return [fact["rule"] for fact in outcome.facts if fact["passed"] != "yes"]


def test_a_sound_day_passes() -> None:
    events = [
        event(event_id="a"), event(event_id="b", cost_nano=None, price=""),
        event(event_id="c", phase="intent"), event(event_id="credit", cost_nano=-3, price="credit@1"),
    ]  # fmt: skip
    day = table(*events)
    assert check_money(DAY, day, NONE, day).passed
    assert check_money(DAY, day, day, NONE).passed
    assert check_money(DAY, day, day, day).passed
    settled = table(event(event_id="c", cost_nano=4))
    merged = table(*events[:2], events[3], event(event_id="c", cost_nano=4))
    assert check_money(DAY, merged, day, settled).passed
    assert check_money(DAY, merged, settled, day).passed


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"cost_nano": -1, "tokens_in": 3}, "no cost below 0"),
        ({"cost_nano": -1, "price": ""}, "no cost below 0"),
        ({"price": ""}, "which price made it"),
        ({"occurred_at": "2026-03-02T00:00:00.000000Z"}, "every event is of this day"),
        ({"occurred_at": "2026-02-28T23:59:59.999999Z"}, "every event is of this day"),
        ({"step": ""}, "are named"),
    ],
)
def test_each_fault_is_found_and_its_event_named(values: dict[str, Any], rule: str) -> None:
    day = table(event(event_id="sound"), event(event_id="planted", **values))
    outcome = check_money(DAY, day, NONE, day)
    assert outcome.blocks
    assert any(rule in found for found in wrong(outcome))
    assert "event planted of run run-1" in str(outcome.shown())
    assert "sound" not in str(outcome.shown())


def test_parts_must_add_up_and_a_name_is_no_surrogate() -> None:
    from dataclasses import replace

    parts = replace(event(event_id="parts"), nano_in=2, nano_out=3)
    good = replace(parts, subject="0" * 32)
    assert check_money(DAY, table(good), NONE, table(good)).passed
    for bad, rule in (
        (replace(parts, nano_out=4), "parts of a cost"),
        (replace(parts, subject="ada"), "surrogate"),
    ):
        (found,) = wrong(check_money(DAY, table(bad), NONE, table(bad)))
        assert rule in found


def test_money_that_does_not_add_up_is_found() -> None:
    one, two = event(event_id="a"), event(event_id="b")
    for candidate in (
        table(one),
        table(one, two, event(event_id="c")),
        table(one, event(event_id="b", cost_nano=6)),
    ):
        assert check_money(DAY, candidate, table(one), table(two)).blocks
    twice = pa.concat_tables([table(one), table(one)])
    assert any("once" in rule for rule in wrong(check_money(DAY, twice, NONE, table(one))))
    unknown = table(event(event_id="a", cost_nano=None))
    assert check_money(DAY, unknown, NONE, table(event(event_id="a", cost_nano=0))).blocks


def test_a_float_is_refused() -> None:
    day = table(event(event_id="a"))
    at = day.schema.get_field_index("cost_usd")
    floats = day.set_column(at, "cost_usd", day.column("cost_usd").cast(pa.float64()))
    outcome = check_money(DAY, floats, NONE, day)
    assert "money is decimal, never a float" in wrong(outcome)


def test_sums_beyond_the_usual_context_are_exact() -> None:
    most = 999_999_999_999_999_999
    day = table(*(event(event_id=str(number), cost_nano=most) for number in range(2000)))
    outcome = check_money(DAY, day, NONE, day)
    assert outcome.passed
    assert any(fact["found"] == format_nano(most * 2000) for fact in outcome.facts)


def test_raw_equals_cubes_equals_exports(tmp_path: Any, spool: Spool) -> None:
    lake = open_lake(tmp_path / "lake")
    assert check_equality(lake, DAY).passed
    with spool.open_run("r") as writer:
        writer.append([event(run_id="r"), event(run_id="r", cost_nano=None, price="")])
    compact_day(spool, lake, DAY, lambda _: True)
    build_cubes(lake, DAY)
    outcome = check_equality(lake, DAY, {"csv": (2, 5)})
    assert (outcome.passed, len(outcome.facts)) == (True, 5)
    assert wrong(check_equality(lake, DAY, {"csv": (2, 6)})) == ["csv = usage"]
    cube = lake.table("cube_day_model")
    with cube.lock_day(DAY):
        cube.write_day(DAY, pa.concat_tables([cube.read_day(DAY)] * 2))
    assert wrong(check_equality(lake, DAY)) == ["cube_day_model = usage"]


def test_what_failed_is_shown_first_and_not_more_than_twenty() -> None:
    facts = [{"rule": f"r{at}", "expected": "", "found": "", "passed": "yes"} for at in range(30)]
    facts.append({"rule": "broken", "expected": "0", "found": "1", "passed": "no"})
    rows = CheckOutcome("name", False, "error", tuple(facts), "").shown()
    assert (rows[0]["rule"], len(rows)) == ("broken", 20)
