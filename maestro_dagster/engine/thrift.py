"""Models while a budget runs low: the cheapest that fits, or a stand-in, and shorter answers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from maestro_dagster.costs.tier import Thrift
from maestro_dagster.errors import ModelError
from maestro_dagster.llm.interface import CallLedger, ModelHub, ModelReply, ModelRequest


class ThriftyHub:
    """A model hub that obeys `downgrade`. `actions` tells what is in force, `say` writes to the run's log.

    A request that names no model is routed to the cheapest one that meets its other wishes. One that
    names a model gets the stand-in of budgets.yaml if there is one that can serve it. Every answer is
    capped. Nothing is changed while `downgrade` is not in force.
    """

    def __init__(
        self,
        hub: ModelHub,
        thrift: Thrift,
        actions: Callable[[], Collection[str]],
        say: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._thrift = thrift
        self._actions = actions
        self._say = say

    def estimate_nano(self, request: ModelRequest) -> int | None:
        return self._hub.estimate_nano(request)

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        if "downgrade" not in self._actions():
            return await self._hub.generate(request, ledger)
        return await self._hub.generate(self._downgrade(request), ledger)

    def _downgrade(self, request: ModelRequest) -> ModelRequest:
        most = self._thrift.max_tokens
        tokens = most if request.max_tokens is None else min(request.max_tokens, most)
        wanted = replace(request, max_tokens=tokens)
        if request.model is None:
            wanted = replace(wanted, route={**request.route, "minimise": "cost"})
        elif (other := self._thrift.models.get(request.model)) is not None:
            wanted = self._stand_in(wanted, other)
        model = wanted.model or "the cheapest model that fits"
        self._say(f"a budget runs low: {model}, at most {tokens} tokens of answer")
        return wanted

    def _stand_in(self, request: ModelRequest, model: str) -> ModelRequest:
        wanted = replace(request, model=model, provider=None)
        try:
            self._hub.estimate_nano(wanted)  # asks as `generate` would: a key, a region, a name
        except ModelError as error:
            self._say(f"{model} cannot stand in for {request.model}: {error.fact}")
            return request
        return wanted
