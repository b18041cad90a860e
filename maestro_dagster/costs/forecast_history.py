"""What each day of a period cost, in all and by tenant, model and flow: what forecasts learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.question import Costs

TOTAL: Final = "total"
DIMENSIONS: Final = ("tenant", "model", "flow")


@dataclass(frozen=True, slots=True)
class CostHistory:
    """`total` is day -> nano-USD, `parts` dimension -> name -> day -> nano-USD; a day may be absent.

    What is no model call stands among the models under its kind (`compute`, `network`, ...), so that each
    dimension adds up to the total. `unknown` counts the events of the period that have no price.
    """

    first: str
    last: str
    total: Mapping[str, int]
    parts: Mapping[str, Mapping[str, Mapping[str, int]]]
    unknown: int

    def names(self, by: str | None) -> Mapping[str, Mapping[str, int]]:
        """Name -> day -> nano-USD; `by` None: all costs under one name."""
        return {TOTAL: self.total} if by is None else self.parts[by]


def read_history(lake: Lake, spool: UsageSpool | None, *, first: str, last: str) -> CostHistory:
    """Adds up the days from `first` to `last` (YYYY-MM-DD, UTC), of usage that is only in the spool too.

    Raises CostError as `answer` of `costs.question` does.
    """
    from maestro_dagster.costs.question import answer

    def ask(costs: Costs) -> CostHistory:
        parts = {name: _join(costs.daily(name)) for name in DIMENSIONS}
        kinds = _join(costs.daily("kind"))
        parts["model"] |= {kind: days for kind, days in kinds.items() if kind != "llm"}
        return CostHistory(first, last, costs.daily().get((), {}), parts, costs.total().unknown)

    return answer(lake, spool, ask, since=first, until=last)


def _join(names: Mapping[tuple[str, ...], Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {"/".join(name): days for name, days in names.items()}
