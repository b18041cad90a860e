"""Figures are those of the journal: whoever reads them, however often, from whenever on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from maestro_dagster.engine import writing
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.figure import JournalFigures
from maestro_dagster.engine.journal import Journal
from maestro_dagster.errors import JournalError
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.metric import RequestTimes, Sheet, render_metrics, write_sheet
from maestro_dagster.telemetry.name import METRICS

Figures = dict[tuple[str, ...], float]


def read(*sources: Any, hide: Callable[[str], str] = str) -> Figures:
    """Every sample by its name and the values of its labels, in the order of their names."""
    text = render_metrics(sources, hide=hide).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def run_flow(engine: Engine, support: ModuleType, run_id: str, *tasks: dict[str, Any], **more: Any) -> None:
    flow = support.make_flow(*tasks, name="shop")
    engine.request(support.make_request(run_id, flow, **more))
    list(engine.stream_segment(run_id, support.all_steps(flow)))
    engine.close(run_id)


def test_runs_steps_money_and_receipts_are_counted(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    engine = open_engine()
    figures = JournalFigures(engine.services.journal)
    assert read(figures)["maestro_queue_depth", "runs"] == 0
    run_flow(engine, support, "r1", {"id": "a", "retries": 1, "with": {"fail_first": 1}}, {"id": "b"})
    run_flow(engine, support, "r2", {"id": "a", "with": {"fail": "x"}}, {"id": "b", "needs": ["a"]})
    first = read(figures)
    assert first["maestro_runs_total", "shop", "succeeded"] == 1
    assert first["maestro_runs_total", "shop", "failed"] == 1
    assert first["maestro_steps_total", "shop", "done"] == 2
    assert first["maestro_steps_total", "shop", "skipped"] == 1
    assert first["maestro_step_attempts_total", "shop", "failed"] == 2
    assert first["maestro_policy_decisions_total", "allow", "shop"] == 2
    assert first["maestro_run_duration_ms_count", "shop"] == 2
    assert first["maestro_receipts_total",] == 2
    costs = [row.cost_nano or 0 for run in ("r1", "r2") for row in engine.services.journal.steps(run)]
    assert first["maestro_budget_spend_usd_total", "shop"] == pytest.approx(sum(costs) / 1e9)
    # Asked again, by the same reader or by one that has just started, nothing is counted twice.
    run_flow(engine, support, "r3", {"id": "a"})
    again = read(figures)
    anew = read(JournalFigures(Journal(tmp_path / "journal.sqlite")))
    assert again["maestro_runs_total", "shop", "succeeded"] == 2
    timeless = {key: value for key, value in again.items() if key[0] != "maestro_run_oldest_seconds"}
    assert timeless == pytest.approx({key: anew[key] for key in timeless})


def test_what_waits_is_stuck_or_has_no_receipt_is_told(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine()
    now = [1_000_000.0]
    journal = engine.services.journal
    flow = support.make_flow({"id": "a"}, name="shop")
    engine.request(support.make_request("waits", flow))
    engine.request(support.make_request("alone", flow))
    engine.admit("alone")
    journal.start_run("alone")
    asked = journal.run("waits").requested_at
    now[0] = asked + 7
    figures = JournalFigures(journal, clock=lambda: now[0])
    found = read(figures)
    assert found["maestro_queue_depth", "runs"] == 1
    assert found["maestro_queue_oldest_seconds", "runs"] == pytest.approx(7, abs=0.1)
    assert (found["maestro_runs_open", "running"], found["maestro_runs_stuck",]) == (1, 0)
    now[0] += 121
    assert read(figures)["maestro_runs_stuck",] == 1
    journal.take_lease("alone", "me", 30)
    assert read(figures)["maestro_runs_stuck",] == 0
    list(engine.stream_segment("waits", ["a"]))
    path = engine.close("waits")
    assert read(figures)["maestro_receipts_failed", "lost"] == 0
    path.unlink()
    assert read(figures)["maestro_receipts_failed", "lost"] == 1
    record = "{}"
    journal.submit(lambda c: writing.finish_run(c, "alone", "failed", now[0], [], record, None)).result()
    assert read(figures)["maestro_receipts_failed", "missing"] == 0
    now[0] += 61
    assert read(figures)["maestro_receipts_failed", "missing"] == 1


def test_bad_minutes_burn_the_error_budget(open_engine: Callable[..., Engine], support: ModuleType) -> None:
    engine = open_engine()
    journal = engine.services.journal
    flow = support.make_flow({"id": "a"}, name="shop")
    received = {f"event-{number}": 0.0 for number in range(3)}
    for number in range(3):
        engine.request(support.make_request(f"r{number}", flow, git={"event_id": f"event-{number}"}))
        list(engine.stream_segment(f"r{number}", ["a"]))
        engine.close(f"r{number}")
        started = journal.run(f"r{number}").started_at
        assert started is not None
        received[f"event-{number}"] = started - (6, 1, 61)[number]

    def find(ids: Sequence[str]) -> Mapping[str, float]:
        return {event: received[event] for event in ids}

    figures = JournalFigures(journal, find)
    found = read(figures)
    # The first and the third were late, in one minute or in two.
    late = {int(received[f"event-{number}"] // 60) for number in (0, 2)}
    assert found["mc_error_budget_burn_percent", "publish_to_start"] == pytest.approx(100 * len(late) / 30)
    assert found["mc_error_budget_burn_percent", "availability"] == 0
    assert found["mc_publish_to_start_ms_count", "shop"] == 3
    assert found["mc_publish_to_start_ms_bucket", "shop", "5000"] == 1
    assert found["mc_publish_to_start_ms_sum", "shop"] == pytest.approx(68_000, abs=5)
    lost = {"code": "attempt-lost", "fact": "", "place": "", "remedy": ""}
    engine.request(support.make_request("gone", flow))
    now = journal.run("gone").requested_at + 600
    journal.start_run("gone")
    journal.submit(lambda c: writing.finish_run(c, "gone", "failed", now, [], "{}", lost)).result()
    found = read(figures)
    assert found["mc_error_budget_burn_percent", "availability"] == pytest.approx(100 / 30)
    later = JournalFigures(journal, find, clock=lambda: now + 29 * 24 * 3600)
    assert read(later)["mc_error_budget_burn_percent", "availability"] == 0


def test_records_that_cannot_be_read_leave_the_others(engine: Engine) -> None:
    class Broken:
        name = "budgets"

        def fill(self, sheet: Sheet) -> None:
            sheet.add(name.BUDGET_FROZEN, 3)
            raise JournalError("it is gone")

    found = read(JournalFigures(engine.services.journal), Broken())
    assert (found["maestro_source_up", "journal"], found["maestro_source_up", "budgets"]) == (1, 0)
    assert ("maestro_budget_frozen",) not in found


def test_labels_are_hidden_cut_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maestro_dagster.telemetry.metric._MOST_SERIES", 20)
    times = RequestTimes()
    for number in range(25):
        times.observe("GET", f"/{number}", 200, 0.2)
    found = read(times)
    assert len([key for key in found if key[0] == "http_server_duration_seconds_count"]) == 21
    assert found["http_server_duration_seconds_count", "(other)", "(other)", "(other)"] == 5
    sheet = Sheet()
    sheet.add(name.TOKENS, 4, 'tiger\n"lily' * 40)
    text = write_sheet(sheet, lambda label: label.replace("tiger", "***")).decode()
    assert "tiger" not in text
    assert max(map(len, text.splitlines())) < 330
    assert list(text_string_to_metric_families(text))


def test_every_metric_is_well_named() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 25
    for metric in METRICS:
        assert re.fullmatch(r"(maestro|mc|http)_[a-z0-9_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
        assert metric.help.endswith(".")
