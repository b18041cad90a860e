from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest

from maestro_dagster.costs.budget import BudgetCounter
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.ledger import SpoolLedger
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError

SCOPE = UsageScope("tenant", "run-1", "flow", "step", 1)


@dataclass(frozen=True)
class Usage:
    tokens_in: int = 10
    tokens_out: int = 5
    tokens_cached: int = 0
    tokens_cache_write: int = 0
    tokens_reasoning: int = 0
    cost_nano: int | None = 40
    nano_in: int | None = None
    nano_out: int | None = None
    nano_cached: int | None = None
    nano_cache_write: int | None = None
    price: str = "list#m"
    estimated: bool = False


async def test_the_intent_is_on_disk_before_the_call_and_the_settlement_replaces_it(spool: Spool) -> None:
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE)
    call = await ledger.intend("openai", "m", 100, price="list#m")
    (intent,) = spool.read_run("run-1")
    assert (intent.phase, intent.cost_nano, intent.outcome) == ("intent", 100, "open")
    assert ledger.cost_nano == 100
    await ledger.settle(call, Usage())
    (settled,) = spool.read_run("run-1")
    assert (settled.phase, settled.cost_nano, settled.tokens_in, settled.price) == (
        "settled",
        40,
        10,
        "list#m",
    )
    assert (settled.event_id, settled.occurred_at) == (intent.event_id, intent.occurred_at)
    assert (ledger.cost_nano, ledger.tokens) == (40, 15)


async def test_an_abandoned_call_stands_at_its_reserve_and_is_marked(spool: Spool) -> None:
    budget = BudgetCounter("run", limit_nano=150)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, [budget])
    call = await ledger.intend("openai", "m", 100)
    await ledger.settle(call, None, "cancelled")
    (event,) = spool.read_run("run-1")
    assert (event.cost_nano, event.outcome, event.estimated) == (100, "cancelled", True)
    assert budget.left_nano == 50


async def test_a_budget_refuses_before_the_call_and_names_what_is_left(spool: Spool) -> None:
    run, step = BudgetCounter("run", limit_nano=1000), BudgetCounter("step", limit_nano=120)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, [run, step])
    call = await ledger.intend("openai", "m", 100)
    with pytest.raises(CostError) as caught:
        await ledger.intend("openai", "m", 100)
    assert caught.value.error_code == "budget-exhausted"
    assert "step budget" in caught.value.fact
    assert "0.00000002 USD left" in caught.value.fact
    assert (run.spent_nano, step.spent_nano) == (100, 100)  # the refused call reserved nowhere
    assert len(spool.read_run("run-1")) == 1
    await ledger.settle(call, Usage(cost_nano=20))
    assert (run.spent_nano, step.spent_nano) == (20, 20)
    await ledger.intend("openai", "m", 100)


async def test_tokens_are_a_budget_too(spool: Spool) -> None:
    budget = BudgetCounter("flow", limit_tokens=100)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, [budget])
    assert ledger.left_tokens() == 100
    call = await ledger.intend("p", "m", None, reserved_tokens=80)
    with pytest.raises(CostError) as caught:
        await ledger.intend("p", "m", None, reserved_tokens=21)
    assert caught.value.error_code == "budget-exhausted"
    await ledger.settle(call, Usage(cost_nano=None))
    assert ledger.left_tokens() == 85
    assert ledger.cost_nano is None


async def test_a_call_without_a_price_is_refused_under_a_money_budget_only(spool: Spool) -> None:
    writer = spool.open_run("run-1")
    await SpoolLedger(writer, SCOPE).intend("p", "m", None)
    with pytest.raises(CostError) as caught:
        await SpoolLedger(writer, SCOPE, [BudgetCounter("run", limit_nano=10**12)]).intend("p", "m", None)
    assert caught.value.error_code == "budget-price-unknown"


async def test_a_call_settles_once(spool: Spool) -> None:
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE)
    call = await ledger.intend("p", "m", 1)
    await ledger.settle(call, Usage())
    with pytest.raises(CostError):
        await ledger.settle(call, Usage())


async def test_an_intent_that_cannot_be_written_gives_its_reserve_back(spool: Spool) -> None:
    writer = spool.open_run("run-1")
    writer.close()
    budget = BudgetCounter("run", limit_nano=100)
    with pytest.raises(CostError):
        await SpoolLedger(writer, SCOPE, [budget]).intend("p", "m", 100)
    assert budget.left_nano == 100


async def test_many_calls_at_once_never_pass_the_limit(spool: Spool) -> None:
    budget = BudgetCounter("run", limit_nano=1000)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, [budget])
    results = await asyncio.gather(*(ledger.intend("p", "m", 30) for _ in range(60)), return_exceptions=True)
    taken = [result for result in results if isinstance(result, str)]
    assert len(taken) == 33
    assert budget.spent_nano == 990


def test_threads_share_a_counter() -> None:
    budget = BudgetCounter("run", limit_nano=5_000)
    refused: list[int] = []

    def work() -> None:
        for _ in range(1000):
            try:
                budget.reserve(1, 0)
            except CostError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.spent_nano, len(refused)) == (5_000, 3_000)
