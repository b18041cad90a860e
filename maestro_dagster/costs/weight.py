"""What each tenant, project and flow used of a period, as weights to divide shared cost by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from maestro_dagster.costs.allocate import OVER, UsageByKey

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake

_KEYS: Final = ("cost", "tokens", "cpu", "memory", "runs")  # in the order of sql/weight.sql


@dataclass(frozen=True, slots=True)
class Weights:
    """`usage` as `allocate_shared` takes it. `unknown` counts events without a price: they weigh nothing
    in the key `cost`.
    """

    usage: UsageByKey
    events: int
    unknown: int


def weigh_usage(lake: Lake, spool: UsageSpool | None, since: str, until: str) -> Weights:
    """Adds up the days from `since` up to and including `until` (YYYY-MM-DD), in lake and spool.

    Cost in nano-USD, memory in kilobyte-milliseconds; a run counts once. Raises CostError (`lake-damaged`).
    """
    from maestro_dagster.costs.question import answer

    rows = answer(lake, spool, lambda costs: costs.rows("weight"), since=since, until=until)
    usage: dict[str, dict[str, dict[str, int]]] = {
        over: {key: {} for key in (*_KEYS, "equal")} for over in OVER
    }
    events = unknown = 0
    for depth, tenant, project, flow, cost, *counts in rows:
        keys = usage[OVER[depth - 1]]
        member = "/".join((tenant, project, flow)[:depth])
        keys["equal"][member] = 1
        keys["cost"][member] = int(cost.scaleb(9))
        for key, count in zip(_KEYS[1:], counts, strict=False):
            keys[key][member] = int(count)
        if depth == 1:
            events, unknown = events + counts[-2], unknown + counts[-1]
    return Weights(usage, events, unknown)
