from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from maestro_dagster.costs.budget import BudgetTree, StepBudget
from maestro_dagster.costs.counter import MemoryCounter
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.ledger import SpoolLedger
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.tier import Limit
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


def open_budget(
    nano: int | None = None, *, step: int | None = None, tokens: int | None = None
) -> tuple[StepBudget, MemoryCounter]:
    """The budgets of run-1 and, if it is limited, of its one step; and where they are counted."""
    counter = MemoryCounter()
    tree = BudgetTree(counter=lambda: counter)
    steps = {} if step is None else {"step": Limit(hard_nano=step)}
    run = tree.open_run("flow", "run-1", [Limit(hard_nano=nano, tokens=tokens)], steps)
    return run.open_step("step"), counter


def used(counter: MemoryCounter) -> list[int]:
    """Of the run, then of the step."""
    tallies = counter.list_tallies("default")
    return [tallies[key].used_nano for key in sorted(tallies)]


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
    budget, counter = open_budget(150)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, budget)
    call = await ledger.intend("openai", "m", 100)
    await ledger.settle(call, None, "cancelled")
    (event,) = spool.read_run("run-1")
    assert (event.cost_nano, event.outcome, event.estimated) == (100, "cancelled", True)
    assert used(counter) == [100]


async def test_a_budget_refuses_before_the_call_and_names_what_is_left(spool: Spool) -> None:
    budget, counter = open_budget(1000, step=120)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, budget)
    call = await ledger.intend("openai", "m", 100)
    with pytest.raises(CostError) as caught:
        await ledger.intend("openai", "m", 100)
    assert caught.value.error_code == "budget-exhausted"
    assert "the budget step step of run run-1 is used up: of 0.00000012 USD" in caught.value.fact
    assert "0.00000002 USD left, this reserves 0.0000001 USD; it does not renew" in caught.value.fact
    assert used(counter) == [100, 100]  # the refused call reserved nowhere
    assert len(spool.read_run("run-1")) == 1
    await ledger.settle(call, Usage(cost_nano=20))
    assert used(counter) == [20, 20]
    await ledger.intend("openai", "m", 100)


async def test_tokens_are_a_budget_too(spool: Spool) -> None:
    budget, _ = open_budget(tokens=100)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, budget)
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
        await SpoolLedger(writer, SCOPE, open_budget(10**12)[0]).intend("p", "m", None)
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
    budget, counter = open_budget(100)
    with pytest.raises(CostError):
        await SpoolLedger(writer, SCOPE, budget).intend("p", "m", 100)
    assert used(counter) == [0]


async def test_many_calls_at_once_never_pass_the_limit(spool: Spool) -> None:
    budget, counter = open_budget(1000)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, budget)
    results = await asyncio.gather(*(ledger.intend("p", "m", 30) for _ in range(60)), return_exceptions=True)
    taken = [result for result in results if isinstance(result, str)]
    assert len(taken) == 33
    assert used(counter) == [990]


async def test_a_call_that_is_cancelled_before_it_is_made_holds_nothing(spool: Spool) -> None:
    budget, counter = open_budget(1000)
    ledger = SpoolLedger(spool.open_run("run-1"), SCOPE, budget)
    call = asyncio.create_task(ledger.intend("p", "m", 300))
    await asyncio.sleep(0)  # its thread has begun, and goes on although nobody waits for it
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert used(counter) == [0]
    (event,) = spool.read_run("run-1")
    assert (event.phase, event.outcome, event.cost_nano) == ("settled", "cancelled", 0)
