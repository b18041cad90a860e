"""Where a model call is written down before it is made, and again when its cost is known."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from maestro_dagster.costs.budget import StepBudget
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.interface import UsageEvent, UsageWriter
from maestro_dagster.errors import CostError


class CallUsage(Protocol):
    """What the model room reports of a call (its ModelUsage)."""

    @property
    def tokens_in(self) -> int: ...
    @property
    def tokens_out(self) -> int: ...
    @property
    def tokens_cached(self) -> int: ...
    @property
    def tokens_cache_write(self) -> int: ...
    @property
    def tokens_reasoning(self) -> int: ...
    @property
    def cost_nano(self) -> int | None: ...
    @property
    def nano_in(self) -> int | None: ...
    @property
    def nano_out(self) -> int | None: ...
    @property
    def nano_cached(self) -> int | None: ...
    @property
    def nano_cache_write(self) -> int | None: ...
    @property
    def price(self) -> str: ...
    @property
    def estimated(self) -> bool: ...


@dataclass(slots=True)
class _OpenCall:
    intent: UsageEvent
    reserved_tokens: int
    began: float


class SpoolLedger:
    """The ledger of one attempt of one step; implements the model room's CallLedger.

    Without a `budget` nothing is reserved, only written down. `hide` takes secrets out of names: usage goes
    into reports, exports and evidence, and is kept for years.
    """

    def __init__(
        self,
        writer: UsageWriter,
        scope: UsageScope,
        budget: StepBudget | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._hide = hide
        self._writer = writer
        self._scope = scope
        self._budget = budget
        self._open: dict[str, _OpenCall] = {}
        self.settled: list[UsageEvent] = []

    @property
    def cost_nano(self) -> int | None:
        """Of the calls so far, open ones at their reserve; None when one has no known price."""
        events = [*self.settled, *(call.intent for call in self._open.values())]
        costs = [event.cost_nano for event in events]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def unsettled(self) -> list[UsageEvent]:
        """Intents of calls that are open, or were abandoned: they count at their reserve."""
        return [call.intent for call in self._open.values()]

    @property
    def tokens(self) -> int:
        return sum(event.tokens_in + event.tokens_out for event in self.settled)

    def left_tokens(self) -> int | None:
        return self._budget.left_tokens() if self._budget is not None else None

    async def intend(
        self,
        provider: str,
        model: str,
        reserved_nano: int | None,
        *,
        reserved_tokens: int = 0,
        price: str = "",
    ) -> str:
        intent = self._scope.make_event(
            "llm",
            event_id=uuid.uuid4().hex,
            phase="intent",
            provider=self._hide(provider),
            model=self._hide(model),
            cost_nano=reserved_nano,
            price=self._hide(price),  # its name has the model's in it
            outcome="open",
        )
        entering = asyncio.ensure_future(asyncio.to_thread(self._enter, intent, reserved_tokens))
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread goes on all the same; a call that is never made must not hold its reserve.
            if await _succeeded(entering):
                self._open[intent.event_id] = _OpenCall(intent, reserved_tokens, time.monotonic())
                await self.settle(intent.event_id, _NEVER_MADE, "cancelled")
            raise
        self._open[intent.event_id] = _OpenCall(intent, reserved_tokens, time.monotonic())
        return intent.event_id

    def _enter(self, intent: UsageEvent, tokens: int) -> None:
        if self._budget is not None:
            self._budget.reserve(intent.event_id, intent.cost_nano, tokens, intent.occurred_at)
        try:
            self._writer.append([intent])
        except CostError:
            if self._budget is not None:
                self._budget.release(intent.event_id)
            raise

    async def settle(self, call_id: str, usage: CallUsage | None, error: str | None = None) -> None:
        """Without usage the reserve stands: nobody knows what an abandoned call cost, it may be all of it."""
        call = self._open.get(call_id)
        if call is None:
            raise CostError(
                "this call was never intended, or was settled before", place=call_id, code="call-unknown"
            )
        event = replace(
            call.intent,
            phase="settled",
            outcome="ok" if error is None else ("cancelled" if error == "cancelled" else "failed"),
            wall_ms=round((time.monotonic() - call.began) * 1000),
            estimated=usage is None,
        )
        if usage is not None:
            event = replace(
                event,
                tokens_in=usage.tokens_in,
                tokens_out=usage.tokens_out,
                tokens_cached=usage.tokens_cached,
                tokens_cache_write=usage.tokens_cache_write,
                tokens_reasoning=usage.tokens_reasoning,
                cost_nano=usage.cost_nano,
                nano_in=usage.nano_in,
                nano_out=usage.nano_out,
                nano_cached=usage.nano_cached,
                nano_cache_write=usage.nano_cache_write,
                price=self._hide(usage.price) or event.price,
                estimated=usage.estimated,
            )
        await asyncio.to_thread(self._leave, event, usage)
        del self._open[call_id]
        self.settled.append(event)

    def _leave(self, event: UsageEvent, usage: CallUsage | None) -> None:
        self._writer.append([event])
        if self._budget is None:
            return
        if usage is None:
            self._budget.keep(event.event_id)
            return
        reserved = self._open[event.event_id].intent.cost_nano or 0
        cost = reserved if usage.cost_nano is None else usage.cost_nano
        tokens = usage.tokens_in + usage.tokens_out
        self._budget.settle(event.event_id, cost, tokens, unknown=int(usage.cost_nano is None))


@dataclass(frozen=True, slots=True)
class _Nothing:
    """The usage of a call that was never made."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    tokens_cache_write: int = 0
    tokens_reasoning: int = 0
    cost_nano: int | None = 0
    nano_in: int | None = None
    nano_out: int | None = None
    nano_cached: int | None = None
    nano_cache_write: int | None = None
    price: str = ""
    estimated: bool = False


_NEVER_MADE = _Nothing()


async def _succeeded(work: asyncio.Future[None]) -> bool:
    await asyncio.wait([work])
    return not work.cancelled() and work.exception() is None
