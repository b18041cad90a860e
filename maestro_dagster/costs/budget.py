"""Limits that are kept by reserving before the work, not by counting after it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano


class BudgetCounter:
    """One budget: of a run, a flow, a step. A limit of None does not limit. Safe between threads."""

    def __init__(self, name: str, *, limit_nano: int | None = None, limit_tokens: int | None = None) -> None:
        self.name = name
        self.limit_nano = limit_nano
        self.limit_tokens = limit_tokens
        self.spent_nano = 0  # reservations included
        self.spent_tokens = 0
        self._lock = threading.Lock()

    @property
    def left_nano(self) -> int | None:
        return None if self.limit_nano is None else max(0, self.limit_nano - self.spent_nano)

    @property
    def left_tokens(self) -> int | None:
        return None if self.limit_tokens is None else max(0, self.limit_tokens - self.spent_tokens)

    def count(self, events: Iterable[UsageEvent]) -> None:
        """Takes over what was spent before: after a resume, or for work that asks nobody (compute)."""
        for event in events:
            self.add(event.cost_nano or 0, event.tokens_in + event.tokens_out)

    def add(self, nano: int, tokens: int = 0) -> None:
        with self._lock:
            self.spent_nano += nano
            self.spent_tokens += tokens

    def reserve(self, nano: int | None, tokens: int, *, place: str = "") -> None:
        """Raises CostError (`budget-exhausted`, `budget-price-unknown`) and then reserves nothing."""
        with self._lock:
            if self.limit_nano is not None:
                if nano is None:
                    raise CostError(
                        f"the {self.name} budget of {format_nano(self.limit_nano)} USD cannot be kept: "
                        "the price of this call is unknown",
                        place=place,
                        remedy="add the model's price to resources/models.yaml, or remove the budget",
                        code="budget-price-unknown",
                    )
                self._refuse(self.limit_nano - self.spent_nano, nano, self.limit_nano, place, money=True)
            if self.limit_tokens is not None:
                left = self.limit_tokens - self.spent_tokens
                self._refuse(left, tokens, self.limit_tokens, place, money=False)
            self.spent_nano += nano or 0
            self.spent_tokens += tokens

    def _refuse(self, left: int, asked: int, limit: int, place: str, *, money: bool) -> None:
        if asked <= left:
            return
        left_text, limit_text, asked_text = (
            f"{format_nano(amount)} USD" if money else f"{amount} tokens"
            for amount in (max(0, left), limit, asked)
        )
        raise CostError(
            f"the {self.name} budget is used up: of {limit_text} there is {left_text} left, "
            f"this call reserves {asked_text}",
            place=place,
            remedy=f"raise the {self.name} budget, lower max_tokens, or choose a cheaper model",
            code="budget-exhausted",
        )


def reserve_all(budgets: Sequence[BudgetCounter], nano: int | None, tokens: int, *, place: str) -> None:
    """Reserves from every budget or from none."""
    taken: list[BudgetCounter] = []
    try:
        for budget in budgets:
            budget.reserve(nano, tokens, place=place)
            taken.append(budget)
    except CostError:
        for budget in taken:
            budget.add(-(nano or 0), -tokens)
        raise
