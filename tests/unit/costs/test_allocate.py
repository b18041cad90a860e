"""Dividing an amount: exact, in proportion, the same in any order; what cannot be divided is said."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from costs_support import make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.allocate import (
    KEYS,
    UNALLOCATED,
    SharedLine,
    allocate,
    allocate_shared,
    list_charges,
)
from maestro_dagster.costs.shared import parse_shared, read_shared
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.price import round_cost, round_parts, split_amount

weights = st.dictionaries(st.text("abcdef/", min_size=1, max_size=8), st.integers(0, 10**12), max_size=30)
amounts = st.integers(-(10**21), 10**21)


@given(amounts, weights)
@settings(max_examples=300, deadline=None)
def test_the_parts_add_up_and_none_is_a_unit_off(amount: int, given_weights: dict[str, int]) -> None:
    parts = allocate(amount, given_weights)
    assert sum(parts.values()) == amount
    whole = sum(given_weights.values())
    if not whole:
        assert parts == {UNALLOCATED: amount}
        return
    assert parts.keys() == given_weights.keys()
    for member, weight in given_weights.items():
        assert abs(parts[member] - Fraction(amount * weight, whole)) < 1
        assert weight or not parts[member]


@given(amounts, weights, st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_members_does_not_matter(
    amount: int, given_weights: dict[str, int], chance: random.Random
) -> None:
    pairs = list(given_weights.items())
    chance.shuffle(pairs)
    assert allocate(amount, dict(pairs)) == allocate(amount, given_weights)


def test_twenty_thousand_splits_are_exact() -> None:
    chance = random.Random(20_000)
    rounded_alone = 0
    for _ in range(20_000):
        shares = [chance.randint(1, 10**6) for _ in range(chance.randint(2, 30))]
        amount = chance.randint(0, 10**12)
        assert sum(split_amount(amount, shares)) == amount
        naive = sum((2 * amount * share + sum(shares)) // (2 * sum(shares)) for share in shares)
        rounded_alone += naive != amount
    assert rounded_alone > 5_000  # rounding each part by itself is wrong for many: the test can fail


def test_the_largest_remainder_gets_the_unit() -> None:
    assert split_amount(10, [1, 1, 1]) == [4, 3, 3]
    assert split_amount(10, [1, 1, 4]) == [2, 2, 6]
    assert split_amount(7, [0, 5, 2]) == [0, 5, 2]
    assert split_amount(-10, [1, 1, 1]) == [-4, -3, -3]
    assert split_amount(0, []) == []
    assert split_amount(0, [0, 0]) == [0, 0]


@pytest.mark.parametrize(("amount", "shares"), [(1, []), (1, [0, 0]), (0, [-1, 2]), (5, [-1, 2])])
def test_weights_that_divide_nothing_are_refused(amount: int, shares: list[int]) -> None:
    with pytest.raises(CostError) as caught:
        split_amount(amount, shares)
    assert caught.value.error_code == "weights-invalid"


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(CostError):
        allocate(5, {"a": -1})


@given(st.lists(st.integers(0, 10**30), max_size=6))
def test_rounded_parts_of_a_cost_add_up_to_the_rounded_cost(parts: list[int]) -> None:
    rounded = round_parts(parts)
    assert sum(rounded) == round_cost(sum(parts))
    for nano, atto in zip(rounded, parts, strict=True):
        assert abs(nano * 10**9 - atto) < 10**9


def line(**values: Any) -> SharedLine:
    return SharedLine(**{"name": "cluster", "nano": 10**9, "since": "2026-01", "key": "cpu", **values})


USAGE = {
    "tenant": {"cpu": {"a": 1, "b": 2}, "equal": {"a": 1, "b": 1}, "cost": {"a": 0, "b": 0}},
    "flow": {"cpu": {"a/shop/x": 3, "b/shop/y": 1}},
}


def test_rows_say_whose_part_by_which_key() -> None:
    rows = allocate_shared([line()], "2026-02", USAGE)
    assert [(row.member, row.weight, row.whole, row.nano) for row in rows] == [
        ("a", 1, 3, 333_333_333),
        ("b", 2, 3, 666_666_667),
    ]
    (x, y) = allocate_shared([line(over="flow")], "2026-02", USAGE)
    assert (x.names, y.names) == (("a", "shop", "x"), ("b", "shop", "y"))
    assert rows[0].names == ("a", "", "")


def test_what_nobody_used_is_unallocated_and_not_dropped() -> None:
    for key in ("cost", "tokens"):
        (row,) = allocate_shared([line(key=key)], "2026-02", USAGE)
        assert (row.member, row.nano, row.allocated) == (UNALLOCATED, 10**9, False)
    (row,) = allocate_shared([line()], "2026-02", {})
    assert row.nano == 10**9


def test_a_line_holds_in_its_months_only() -> None:
    dated = line(since="2026-02", until="2026-03")
    assert [bool(allocate_shared([dated], f"2026-0{month}", USAGE)) for month in (1, 2, 3, 4)] == [
        False, True, True, False,
    ]  # fmt: skip


def test_stated_weights_need_no_usage() -> None:
    rows = allocate_shared([line(key="weights", weights={"z": 1, "a": 3})], "2026-02", {})
    assert {row.member: row.nano for row in rows} == {"a": 750_000_000, "z": 250_000_000}


@given(st.lists(st.tuples(amounts, st.sampled_from(KEYS[:-1])), max_size=8), weights)
@settings(max_examples=60, deadline=None)
def test_rows_add_up_to_their_lines(lines: list[tuple[int, Any]], given_weights: dict[str, int]) -> None:
    made = [line(name=str(index), nano=nano, key=key) for index, (nano, key) in enumerate(lines)]
    rows = allocate_shared(made, "2026-02", {"tenant": dict.fromkeys(KEYS, given_weights)})
    for one in made:
        assert sum(row.nano for row in rows if row.line == one.name) == one.nano


def test_charges_for_an_export_add_up_too() -> None:
    rows = allocate_shared([line(), line(name="credit", nano=-7, key="equal")], "2026-02", USAGE)
    charges = list_charges(rows)
    assert sum(charge.nano for charge in charges) == 10**9 - 7
    assert {charge.start for charge in charges} == {"2026-02-01T00:00:00Z"}
    assert dict(charges[0].tags) == {"line": "cluster", "key": "cpu"}


def document(**values: Any) -> dict[str, Any]:
    row = {"name": "cluster", "amount": "12.5", "since": "2026-01", "key": "cpu", **values}
    return {"version": 1, "currency": "USD", "shared": [row]}


def test_lines_are_read() -> None:
    (found,) = parse_shared(document(until="2026-03", over="flow", description="the machines"))
    assert (found.nano, found.until, found.over) == (12_500_000_000, "2026-03", "flow")
    (credit,) = parse_shared(document(amount="-0.000000001", key="weights", weights={"a": 0, "b": 2}))
    assert (credit.nano, credit.weights) == (-1, {"a": 0, "b": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 12.5},
        {"amount": "--1"},
        {"amount": "1e3"},
        {"amount": None},
        {"key": "luck"},
        {"over": "step"},
        {"since": "2026-13"},
        {"since": "0000-01"},
        {"since": 2026},
        {"until": "2025-12"},
        {"weights": {"a": 1}},
        {"key": "weights"},
        {"key": "weights", "weights": {}},
        {"key": "weights", "weights": {"a": 0}},
        {"key": "weights", "weights": {"a": -1}},
        {"key": "weights", "weights": {"a": True}},
        {"key": "weights", "weights": {"a": 0.5}},
        {"key": "weights", "weights": {"a/b": 1}},
        {"key": "weights", "weights": {"a/": 1}, "over": "project"},
        {"name": ""},
        {"name": 5},
        {"colour": "red"},
    ],
)
def test_a_wrong_line_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CostError) as caught:
        parse_shared(document(**change))
    assert caught.value.error_code == "shared-invalid"


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"version": 1}, {"version": 1, "currency": "EUR", "shared": []},
     {"version": 1, "currency": "USD", "shared": {}}, {"version": 1, "currency": "USD", "shared": ["x"]},
     {"version": 1, "currency": "USD", "shared": [], "more": 1}],
)  # fmt: skip
def test_a_wrong_document_is_refused(value: Any) -> None:
    with pytest.raises(CostError) as caught:
        parse_shared(value)
    assert caught.value.error_code == "shared-invalid"


def test_an_invoice_stands_once_for_a_month() -> None:
    value = document(until="2026-03")
    value["shared"].append({**value["shared"][0], "since": "2026-04"})
    value["shared"][1].pop("until")
    assert len(parse_shared(value)) == 2
    value["shared"][1]["since"] = "2026-03"
    with pytest.raises(CostError, match="same month"):
        parse_shared(value)


def test_the_shipped_file_is_valid_and_none_is_no_error(repository: Path, tmp_path: Path) -> None:
    assert read_shared(repository / "resources" / "shared.yaml") == ()
    assert read_shared(tmp_path / "shared.yaml") == ()
    (tmp_path / "shared.yaml").write_text("a: [1, 2")
    with pytest.raises(CostError):
        read_shared(tmp_path / "shared.yaml")


def test_usage_of_lake_and_spool_is_weighed_once(tmp_path: Path) -> None:
    from maestro_dagster.costs.compact import compact_day
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.costs.weight import weigh_usage

    spool, lake = Spool(tmp_path / "spool"), open_lake(str(tmp_path / "lake"))
    used = [
        make_event(run_id="r1", event_id="1", cost_nano=5, tokens_in=3, tokens_out=4,
                   occurred_at="2026-01-31T23:00:00.000000Z"),
        make_event(run_id="r1", event_id="2", cost_nano=None, cpu_ms=9,
                   occurred_at="2026-02-01T00:00:00.000000Z"),
        make_event(run_id="r1", event_id="3", cost_nano=7, memory_kb_ms=8,
                   occurred_at="2026-02-02T00:00:00.000000Z"),
    ]  # fmt: skip
    with spool.open_run("r1") as writer:
        writer.append(used)
    for compacted in (False, True):
        if compacted:
            compact_day(spool, lake, "2026-02-01", lambda _run: True)
        found = weigh_usage(lake, spool, since="2026-02-01", until="2026-02-28")
        assert (found.events, found.unknown) == (2, 1)
        keys = found.usage["tenant"]
        assert {key: keys[key]["tenant"] for key in keys} == {
            "cost": 7, "tokens": 0, "cpu": 9, "memory": 8, "runs": 1, "equal": 1,
        }  # fmt: skip
        assert set(found.usage["flow"]["cost"]) == {"tenant/default/flow"}
