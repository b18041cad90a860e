"""Budgets in runs: what is refused and how it is said, what is done as a budget fills, deaths and clocks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from maestro_dagster.costs.budget import BudgetTree
from maestro_dagster.costs.budget_report import (
    budget_report,
    find_alerts,
    list_standings,
    sum_usage,
    take_alert,
)
from maestro_dagster.costs.counter_sqlite import SqliteCounter
from maestro_dagster.costs.event import UsageScope, format_time
from maestro_dagster.costs.rate import RateCard
from maestro_dagster.costs.tier import BudgetBook, Thrift
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.thrift import ThriftyHub
from maestro_dagster.errors import CostError, ModelError
from maestro_dagster.llm.interface import ModelRequest, ModelUsage
from maestro_dagster.steps.interface import StepConfig, StepKind, StepResult

NAME = "engine_support"
BUDGETED = "pkg:test/spend@1.0.0"
CROWD = "pkg:test/crowd@1.0.0"


def load_engine_support() -> ModuleType:
    if NAME not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "engine" / "support.py"
        spec = importlib.util.spec_from_file_location(NAME, path)
        assert spec
        assert spec.loader
        sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[NAME]


support = load_engine_support()


class SpendConfig(StepConfig):
    reserve: int = 100
    cost: int | None = 100
    tokens: int = 0


class Spend(StepKind[SpendConfig]):
    """Books one model call of a known cost. Its compute is estimated at nothing."""

    uses = BUDGETED
    summary = "Spend."
    config = SpendConfig

    async def run(self, context: Any, config: SpendConfig, inputs: Any) -> StepResult:
        call = await context.ledger.intend(
            "test", "m", None if config.cost is None else config.reserve, reserved_tokens=config.tokens
        )
        await context.ledger.settle(call, ModelUsage(config.tokens, 0, cost_nano=config.cost))
        return StepResult(data=b"x", media_type="text/plain")


class Crowd(StepKind[SpendConfig]):
    """Counts how many of it are at work at once."""

    uses = CROWD
    summary = "Count."
    config = SpendConfig
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0

    async def run(self, context: Any, config: SpendConfig, inputs: Any) -> StepResult:
        Crowd.now += 1
        Crowd.most = max(Crowd.most, Crowd.now)
        await asyncio.sleep(0.2)
        Crowd.now -= 1
        return StepResult(data=b"x", media_type="text/plain")


class Kinds(support.Kinds):  # type: ignore[name-defined, misc]
    def kind(self, uses: str) -> Any:
        own = {BUDGETED: Spend, CROWD: Crowd}
        return own[uses]() if uses in own else super().kind(uses)


FREE = RateCard.from_document(
    {
        "version": 1,
        "currency": "USD",
        "rates": [
            {
                "valid_from": "2020-01-01",
                **{
                    unit: {"free": True}
                    for unit in ("cpu_second", "gb_second", "gb_written", "network_gb_in", "network_gb_out")
                },
            }
        ],
    }
)
Open = Callable[..., Engine]


def book(**entry: Any) -> BudgetBook:
    tenant = entry.pop("default_limits", {"month": {"hard": "0.000001"}})
    return BudgetBook.from_document(
        {
            "version": 1,
            "currency": "USD",
            "budgets": [
                {
                    "valid_from": "2020-01-01",
                    "actions": {"warn": 80, "downgrade": 90, "slow": 95},
                    "slow": {"delay_seconds": 0},
                    "tenants": {"default": tenant},
                    **entry,
                }
            ],
        }
    )


@pytest.fixture
def open_engine(tmp_path: Path) -> Iterator[Open]:
    opened: list[Engine] = []

    def open_one(budgets: BudgetBook | None = None, **changes: Any) -> Engine:
        tree = BudgetTree(budgets, lambda: SqliteCounter(tmp_path / "budgets.sqlite"))
        values = {"catalogue": Kinds(), "rates": FREE, "budgets": tree, **changes}
        engine: Engine = support.make_engine(tmp_path, **values)
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        engine.services.journal.close()
        engine.services.budgets.counter.close()


def spend(*costs: int | None, **fields: Any) -> Any:
    """A chain of steps s0, s1, ... that cost this many nano-dollars."""
    tasks = [
        {
            "id": f"s{number}",
            "uses": BUDGETED,
            "with": {"reserve": cost or 0, "cost": cost},
            "needs": [f"s{number - 1}"] if number else [],
        }
        for number, cost in enumerate(costs)
    ]
    return support.make_flow(*tasks, **fields)


def run(engine: Engine, flow: Any, run_id: str = "r1", **fields: Any) -> dict[str, Any]:
    engine.request(support.make_request(run_id, flow, **fields))
    if not engine.admit(run_id).allow:
        return {}
    outcomes = {each.step: each for each in engine.stream_segment(run_id, support.all_steps(flow))}
    engine.close(run_id)
    return outcomes


def spent(engine: Engine, key: str) -> int:
    nano: int = engine.services.budgets.counter.read([key])[key].spent_nano
    return nano


def month() -> str:
    return f"default#month:{format_time()[:7]}"


def test_a_call_that_does_not_fit_names_budget_limit_rest_and_renewal(open_engine: Open) -> None:
    engine = open_engine(book())
    outcomes = run(engine, spend(900, 101))
    error = outcomes["s1"].error
    assert error["code"] == "budget-exhausted"
    assert f"the budget tenant default, month {format_time()[:7]} is used up" in error["fact"]
    assert "of 0.000001 USD there is 0.0000001 USD left, this reserves 0.000000101 USD" in error["fact"]
    assert "; it renews on 1 " in error["fact"]
    assert error["fact"].endswith(", 00:00 UTC")
    assert "resources/budgets.yaml" in error["remedy"]
    assert spent(engine, month()) == 900


def test_a_run_is_not_admitted_when_its_estimate_exceeds_what_is_left(open_engine: Open) -> None:
    engine = open_engine(book(), rates=RateCard.load(support.REPOSITORY / "resources" / "rates.yaml"))
    flow = support.make_flow({"id": "one"})  # 0.1 s of CPU: 1250 nano-dollars
    assert run(engine, flow) == {}
    (verdict,) = [v for v in engine.admit("r1").verdicts if v.pack == "admission"]
    (violation,) = verdict.violations
    assert violation.rule == "budget-exhausted"
    assert "USD left, the run is estimated at 0.000001" in violation.message
    assert "it renews on 1 " in violation.message


def test_what_is_used_up_or_frozen_admits_nothing_more(open_engine: Open) -> None:
    engine = open_engine(book())
    run(engine, spend(1000))
    assert run(engine, spend(0), "r2") == {}
    other = open_engine(book(default_limits={"month": {"hard": "5"}}))
    other.services.budgets.freeze("default/default/small", "too many retries", "ann")
    assert run(other, spend(1), "r3") == {}
    (verdict,) = [v for v in other.admit("r3").verdicts if v.pack == "admission"]
    assert "too many retries" in verdict.violations[0].message
    assert other.services.budgets.thaw("default/default/small")
    assert run(other, spend(1), "r4")["s0"].status == "done"
    with pytest.raises(CostError):
        other.services.budgets.freeze("somebody/else", "x", "ann")


def test_each_act_is_in_the_log_and_in_the_evidence_once(open_engine: Open) -> None:
    engine = open_engine(book(default_limits={"month": {"soft": "0.0000001", "hard": "0.000001"}}))
    outcomes = run(engine, spend(50, 60, 700, 100, 50, 40))
    told = {
        step: [text.split(": ")[1].split(" ")[0] for text in outcome.facts.get("budget_acts", ())]
        for step, outcome in outcomes.items()
    }
    assert told == {
        "s0": [], "s1": ["soft"], "s2": ["warn"], "s3": ["downgrade"], "s4": ["slow"], "s5": ["freeze"]
    }  # fmt: skip
    lines = [line["line"] for line in engine.logs("r1") if line["line"].startswith("budget tenant")]
    assert len(lines) == 5
    with zipfile.ZipFile(engine.close("r1")) as bundle:
        names = [
            name for name in bundle.namelist() if "budget_acts" in bundle.read(name).decode(errors="replace")
        ]
    assert names


def test_admission_repeats_what_was_reached_as_a_warning(open_engine: Open) -> None:
    engine = open_engine(book())
    run(engine, spend(850))
    engine.request(support.make_request("r2", spend(1)))
    (verdict,) = [v for v in engine.admit("r2").verdicts if v.pack == "admission"]
    assert verdict.warnings
    assert "warn (0.00000085 of 0.000001 USD are spent)" in verdict.warnings[0]


def test_work_without_a_price_is_refused_under_a_hard_limit_and_counted_under_a_soft_one(
    open_engine: Open,
) -> None:
    engine = open_engine(book())
    assert run(engine, spend(None))["s0"].error["code"] == "budget-price-unknown"
    engine = open_engine(book(default_limits={"month": {"soft": "1"}}))
    assert run(engine, spend(None), "r2")["s0"].status == "done"
    assert engine.services.budgets.counter.read([month()])[month()].unknown == 1


def test_the_flow_the_request_and_the_file_limit_a_run_together(open_engine: Open) -> None:
    limits = {"run": {"hard": "0.0000003"}}
    flow = spend(150, 150, 1, budget={"usd": "0.5"})
    assert [o.status for o in run(open_engine(book(default_limits=limits)), flow).values()][:3] == [
        "done", "done", "failed"
    ]  # fmt: skip
    engine = open_engine(book(default_limits=limits))
    outcomes = run(engine, flow, "r2", budget_nano=200)
    assert outcomes["s1"].error["fact"].startswith("the budget run r2 is used up: of 0.0000002 USD")
    assert outcomes["s1"].error["fact"].endswith("it does not renew")


def test_without_a_budget_nothing_is_counted_and_no_file_is_made(open_engine: Open, tmp_path: Path) -> None:
    run(open_engine(None), spend(10**9, 10**9))
    assert not (tmp_path / "budgets.sqlite").exists()


def test_two_processes_on_one_run_share_its_budget_exactly(open_engine: Open, tmp_path: Path) -> None:
    """The second step runs in another process while the first one's spending is only in the store."""
    engine = open_engine(None)
    flow = support.make_flow(
        {"id": "a", "uses": BUDGETED, "with": {"reserve": 60, "cost": 60}},
        {"id": "b", "uses": BUDGETED, "with": {"reserve": 60, "cost": 60}},
        budget={"usd": "0.0000001"},
    )
    engine.request(support.make_request("r1", flow))
    engine.admit("r1")
    code = (
        "import importlib.util, sys; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('t', sys.argv[1])\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "home = Path(sys.argv[2])\n"
        "tree = t.BudgetTree(None, lambda: t.SqliteCounter(home / 'budgets.sqlite'))\n"
        "engine = t.support.make_engine(home, catalogue=t.Kinds(), rates=t.FREE, budgets=tree)\n"
        "print([each.error for each in engine.stream_segment('r1', [sys.argv[3]])])\n"
    )
    assert [each.error for each in engine.stream_segment("r1", ["a"])] == [None]
    said = subprocess.run(
        [sys.executable, "-c", code, __file__, str(tmp_path), "b"], capture_output=True, text=True, check=True
    ).stdout
    assert "budget-exhausted" in said
    assert "there is 0.00000004 USD left" in said


def test_a_run_whose_process_died_goes_on_with_what_it_has_left(open_engine: Open) -> None:
    engine = open_engine(book(default_limits={"month": {"hard": "0.0000002"}}))
    flow = spend(10, 100, 100)
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ["s0"]))
    tree = engine.services.budgets
    ghost = tree.open_run("small", "r1", owner="nobody").open_step("s1")
    ghost.reserve("never made", 150, 0, format_time())
    ghost.reserve("made", 20, 0, format_time())
    scope = UsageScope("default", "r1", "small", "s1", 1)
    with engine.services.spool.open_run("r1") as writer:
        writer.append([scope.make_event("llm", event_id="made", phase="intent", cost_nano=20)])
    outcomes = {each.step: each for each in engine.stream_segment("r1", ["s1", "s2"])}
    assert outcomes["s1"].status == "done"
    assert "there is 0.00000007 USD left" in outcomes["s2"].error["fact"]
    engine.close("r1")
    engine.close("r1")
    assert tree.counter.read([month()])[month()][:2] == (130, 0)


def test_the_counters_equal_the_usage_to_the_nano_dollar(open_engine: Open) -> None:
    rates = RateCard.load(support.REPOSITORY / "resources" / "rates.yaml")
    engine = open_engine(book(default_limits={"month": {"hard": "1"}}), rates=rates)
    flow = support.make_flow(
        {"id": "one", "with": {"burn": 0.02, "bytes_in": 1000}},
        {"id": "two", "uses": support.CALL, "with": {"fail_first": 1}, "retries": 2},
    )
    run(engine, flow)
    events = engine.services.spool.read_run("r1")
    tree = engine.services.budgets
    sums = sum_usage(tree, events)
    assert sums[month()].spent_nano == sum(event.cost_nano or 0 for event in events) > 0
    found = tree.counter.read(list(sums))
    assert {key: tally[:5] for key, tally in found.items()} == {key: tally[:5] for key, tally in sums.items()}
    assert not [key for key in tree.counter.list_tallies("default") if key.endswith("#run")]


def test_work_belongs_to_the_day_on_which_it_began() -> None:
    tree = BudgetTree(book(default_limits={"day": {"hard": "0.0000001"}, "month": {"hard": "1"}}))
    step = tree.open_run("f", "r").open_step("s")
    step.reserve("late", 90, 0, "2026-11-30T23:59:59.999999Z")
    with pytest.raises(CostError) as caught:
        step.reserve("later", 20, 0, "2026-11-30T23:59:59.999999Z")
    assert "it renews on 1 December 2026, 00:00 UTC" in caught.value.fact
    step.reserve("next", 20, 0, "2026-12-01T00:00:00.000000Z")
    step.settle("late", 95, 0)  # over midnight: it counts where it was reserved
    assert {
        key: tally[:2] for key, tally in tree.counter.list_tallies("default").items() if "#run" not in key
    } == {
        "default#day:2026-11-30": (95, 0),
        "default#month:2026-11": (95, 0),
        "default#day:2026-12-01": (0, 20),
        "default#month:2026-12": (0, 20),
    }


def test_a_changed_file_holds_for_the_next_reservation(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    text = (
        "version: 1\ncurrency: USD\nbudgets:\n"
        '- {valid_from: "2020-01-01", tenants: {default: {day: {hard: "%s"}}}}\n'
    )
    path.write_text(text % "0.0000001")
    step = (tree := BudgetTree(path)).open_run("f", "r").open_step("s")
    with pytest.raises(CostError):
        step.reserve("a", 101, 0, format_time())
    path.write_text(text % "0.00000011")
    os.utime(path, ns=(1, 1))
    step.reserve("a", 101, 0, format_time())
    path.write_text("nonsense")
    with pytest.raises(CostError) as caught:
        tree.admit("f", 1, format_time()[:10])
    assert caught.value.error_code == "budgets-invalid"


def test_alerts_come_once_and_the_report_says_how_all_stands(open_engine: Open) -> None:
    engine = open_engine(book())
    tree, day = engine.services.budgets, format_time()[:10]
    assert find_alerts(tree, day) == []
    run(engine, spend(850))
    (alert,) = find_alerts(tree, day)
    assert (alert.action, take_alert(tree, alert), take_alert(tree, alert)) == ("warn", True, False)
    assert find_alerts(tree, day) == []
    report = budget_report(
        list_standings(tree, day), tree.counter.list_frozen(), tenant="default", project="default", day=day
    )
    row = next(row for row in report["budgets"] if row["name"].startswith("tenant default, month"))
    assert (row["spent_usd"], row["left_usd"], row["percent"], row["actions"]) == (
        "0.00000085", "0.00000015", "85.0", ["warn"]
    )  # fmt: skip
    assert row["renews"].endswith("-01T00:00:00Z")
    assert json.dumps(report)


class FakeHub:
    """Answers nothing; keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []

    def estimate_nano(self, request: ModelRequest) -> int:
        if request.model == "unreachable":
            raise ModelError("there is no key")
        return 1

    async def generate(self, request: ModelRequest, ledger: Any) -> Any:
        self.asked.append(request)


@pytest.mark.parametrize(
    ("model", "actions", "expected"),
    [
        ("big", ["warn"], ("big", 4000, {"minimise": "latency"})),
        ("big", ["downgrade"], ("small", 100, {"minimise": "latency"})),
        ("odd", ["downgrade"], ("odd", 100, {"minimise": "latency"})),
        ("other", ["downgrade"], ("other", 100, {"minimise": "latency"})),
        (None, ["downgrade", "slow"], (None, 100, {"minimise": "cost"})),
    ],
)
async def test_downgrade_caps_answers_and_takes_cheaper_models(
    model: str | None, actions: list[str], expected: tuple[Any, ...]
) -> None:
    hub, said = FakeHub(), []
    thrift = Thrift(100, {"big": "small", "odd": "unreachable"}, 0)
    thrifty = ThriftyHub(hub, thrift, lambda: actions, said.append)  # type: ignore[arg-type]
    request = ModelRequest((), model=model, max_tokens=4000, route={"minimise": "latency"})
    await thrifty.generate(request, None)  # type: ignore[arg-type]
    (asked,) = hub.asked
    assert (asked.model, asked.max_tokens, asked.route) == expected
    assert bool(said) == ("downgrade" in actions)


@pytest.mark.parametrize(("before", "most"), [(0, 4), (960, 1)])
def test_slow_runs_one_step_at_a_time(open_engine: Open, before: int, most: int) -> None:
    engine = open_engine(book())
    tree = engine.services.budgets
    limits = tree.accounts(format_time()[:10], "small")
    tree.counter.settle(limits, "before", before, 0, run_id="another")
    Crowd.now = Crowd.most = 0
    run(engine, support.make_flow(*({"id": f"p{number}", "uses": CROWD} for number in range(4))))
    assert Crowd.most == most
