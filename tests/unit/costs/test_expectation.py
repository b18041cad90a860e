from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from costs_support import make_event

from maestro_dagster.costs.expectation import Finding, judge_day, list_rules, pandas_of
from maestro_dagster.costs.frame import frame_events, table_of
from maestro_dagster.costs.known import Known, ProjectRules, forecast_rows, load_project_rules
from maestro_dagster.costs.schema import usage_schema
from maestro_dagster.errors import CostError

KNOWN = Known(tenants=["tenant"], flows=["flow"], runs=["run-1"], rows=(1, 3))


REFUSED = (
    "tenant: []",
    "tenants: acme",
    "volume: {block_factor: 0}",
    "expectations: [{type: rm}]",
    "- 1",
    "{",
    "most_usd_per_event: much",
    "expectations: [{type: expect_x, severity: loud}]",
)


def table(*events: Any) -> pa.Table:
    return table_of(frame_events(events))


def failed(day: pa.Table, known: Known = KNOWN) -> list[Finding]:
    return [finding for finding in judge_day(day, list_rules(known)) if not finding.passed]


def test_a_sound_day_meets_every_expectation() -> None:
    assert (
        failed(
            table(make_event(cost_nano=10**18 - 1), make_event()),
            replace(KNOWN, rules=ProjectRules(most_nano=10**18)),
        )
        == []
    )
    assert failed(table(make_event())) == []  # no price known: nothing is out of bounds
    assert failed(usage_schema().empty_table(), replace(KNOWN, rows=None)) == []


def test_every_fault_of_a_day_is_found_at_once() -> None:
    bad = replace(
        make_event("stray", cost_nano=10**15, tokens_out=-1, attempt=0),
        tenant="other", flow="other", kind="magic", outcome="fine", retention_tier="forever",  # type: ignore[arg-type]
    )  # fmt: skip
    found = {(one.rule.kwargs["column"], one.rule.severity) for one in failed(table(bad))}
    assert found == {
        ("cost_usd", "error"), ("tokens_out", "error"), ("attempt", "error"), ("tenant", "error"),
        ("kind", "error"), ("outcome", "error"), ("retention_tier", "error"), ("flow", "warn"),
        ("run_id", "warn"),
    }  # fmt: skip
    (attempt,) = [one for one in failed(table(bad)) if one.rule.kwargs["column"] == "attempt"]
    assert (attempt.expected, attempt.found) == ("min_value: 1", "0")


def test_columns_that_moved_or_changed_type_are_found() -> None:
    day = table(make_event(cost_nano=1))
    assert {one.rule.group for one in failed(day.select(day.column_names[::-1]))} == {"schema"}
    at = day.schema.get_field_index("cost_usd")
    floats = day.set_column(at, "cost_usd", day.column("cost_usd").cast(pa.float64()))
    (one,) = failed(floats)
    assert (one.rule.kwargs["column"], one.found) == ("cost_usd", "float64")
    assert {one.rule.group for one in failed(day.drop_columns(["tenant"]))} == {"schema", "references"}


def test_money_stays_exact_on_its_way_to_pandas() -> None:
    most = 999_999_999_999_999_999
    frame = pandas_of(table(make_event(cost_nano=most, event_id="a"), make_event(event_id="b")))
    assert str(frame["cost_usd"].dtype) == "Int64"
    assert [None if value is frame["cost_usd"].array[1] else int(value) for value in frame["cost_usd"]] == [
        most,
        None,
    ]


def test_volume_warns_and_far_beyond_it_blocks() -> None:
    for count, wanted in ((3, []), (4, ["warn"]), (31, ["warn", "error"])):
        day = table(*(make_event() for _ in range(count)))
        assert [one.rule.severity for one in failed(day)] == wanted


def test_rows_are_forecast_from_days_before() -> None:
    history = [(f"2026-01-{day:02d}", 1000 + day % 7) for day in range(1, 29)]
    found = forecast_rows(history, "2026-01-29", over=True)
    assert found is not None
    assert found[0] <= 1001 <= found[1] < 1100
    assert forecast_rows(history, "2026-01-29", over=False) == (0, found[1])
    assert forecast_rows(history[:10], "2026-01-11", over=True) is None
    assert forecast_rows([], "2026-01-11", over=True) is None


def test_the_operators_file_is_read_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "expectations.yaml"
    assert load_project_rules(path) == ProjectRules()
    path.write_text(
        "tenants: [acme]\nmost_usd_per_event: '2'\nvolume: {block_factor: 3}\n"
        "expectations: [{type: expect_table_row_count_to_equal, kwargs: {value: 5}, severity: warning}]\n"
    )
    rules = load_project_rules(path)
    assert (rules.tenants, rules.most_nano, rules.block_factor) == (("acme",), 2 * 10**9, 3)
    (one,) = failed(table(make_event()), replace(KNOWN, rules=rules))
    assert (one.rule.group, one.rule.severity, one.found) == ("project_expectations", "warn", "1")
    for text in REFUSED:
        path.write_text(text)
        with pytest.raises(CostError) as caught:
            load_project_rules(path)
        assert caught.value.error_code == "expectations-invalid"


@pytest.mark.parametrize(
    "one", [{"type": "expect_nothing_of_me", "kwargs": {}},
            {"type": "expect_column_to_exist", "kwargs": {"row": 1}},
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "nobody", "min_value": 0}}]
)  # fmt: skip
def test_an_expectation_that_cannot_be_checked_has_not_passed(one: dict[str, Any]) -> None:
    rules = ProjectRules(expectations=({**one, "severity": "error"},))
    with pytest.raises(CostError) as caught:
        failed(table(make_event()), replace(KNOWN, rules=rules))
    assert caught.value.error_code == "expectation-invalid"
    assert one["type"] in caught.value.fact


def test_great_expectations_sends_nothing_and_writes_nothing(tmp_path: Path) -> None:
    program = """
import socket, sys, threading
def refuse(*given, **named):
    print("CONNECTED", given)
    sys.exit(9)
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from maestro_dagster.costs import expectation, known
from maestro_dagster.costs.schema import usage_schema
assert "great_expectations" not in sys.modules and "pandas" not in sys.modules
found = expectation.judge_day(usage_schema().empty_table(), expectation.list_rules(known.Known()))
assert len(found) > 40 and all(one.passed for one in found), found
assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=False, timeout=120,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(home)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
