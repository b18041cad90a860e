"""What a run cost (cost-report.json of its evidence), what a period cost, to the nano-dollar.

Everywhere `total_usd` is None as soon as one price is unknown; `known_usd` is the sum of what has a price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.question import DIMENSIONS, period_before
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.question import Costs, Group

SCHEMA = "maestro.cost-report/v1"
PERIOD_SCHEMA = "maestro.cost-period/v1"
TOP_SCHEMA = "maestro.cost-top/v1"
_COUNTED = ("tokens_in", "tokens_out", "tokens_cached", "cpu_ms", "bytes_in", "bytes_out")
_MOST_RUNS = 1000  # of a period there may be millions


def cost_report(events: Iterable[UsageEvent]) -> dict[str, Any]:
    """The report of the events given, each counted once: pass resolved ones (`Spool.read_run`).

    Money is decimal USD as strings. `total_usd` is None as soon as one price is unknown; `known_usd`
    is the sum of what has a price and equals the lake's sum. Keys and rows are in a stable order.
    """
    rows = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    failed = [event for event in rows if event.outcome in ("failed", "cancelled")]
    unsettled = [event for event in rows if event.phase == "intent"]
    return {
        "schema": SCHEMA,
        "currency": "USD",
        "runs": sorted({event.run_id for event in rows}),
        **_sum(rows),
        "events": len(rows),
        "unsettled": {"events": len(unsettled), "known_usd": format_nano(_known(unsettled))},
        "failures": {"events": len(failed), "known_usd": format_nano(_known(failed))},
        "unknown": _unknown(rows),
        "by_step": _group(rows, ("step",), lambda event: (event.step,), attempts=True),
        "by_flow": _group(rows, ("flow",), lambda event: (event.flow,)),
        "by_kind": _group(rows, ("kind",), lambda event: (event.kind,)),
        "by_model": _group(
            [event for event in rows if event.kind == "llm"],
            ("provider", "model"),
            lambda event: (event.provider, event.model),
        ),
        "prices": sorted({event.price for event in rows if event.price}),
    }


def report_run(events: Sequence[UsageEvent], by: str = "step") -> dict[str, Any]:
    """`cost_report` of a run's events, and `rows` by any of `DIMENSIONS`."""
    value = cost_report(events)
    if f"by_{by}" in value:
        return {**value, "by": by, "rows": value[f"by_{by}"]}
    names = DIMENSIONS[by].columns
    grouped = _group(events, names, lambda event: tuple(_name_of(event, name) for name in names))
    return {**value, "by": by, "rows": grouped}


def report_period(
    costs: Costs, by: str = "step", *, since: str | None = None, until: str | None = None
) -> dict[str, Any]:
    """What a period cost. Money is decimal USD as strings; keys and rows are in a stable order.

    Failures and retries are contained in the total. Of more than 1,000 runs `rows` has the dearest.
    """
    first, last = costs.days()
    groups = {
        name: _rows(name, costs.group(name, since=since, until=until))
        for name in dict.fromkeys(("step", "flow", "kind", "model", by))
        if name != "run"
    }
    left_out = 0
    if by == "run":
        dearest, number = costs.dearest("run", _MOST_RUNS, since, until)
        groups["run"] = _rows("run", dearest)
        left_out = number - len(dearest)
    return {
        "schema": PERIOD_SCHEMA,
        "currency": "USD",
        "since": since,
        "until": until,
        "first_day": first,
        "last_day": last,
        **_sum_group(costs.total(since, until)),
        **{part: _part(costs.total(since, until, part)) for part in ("unsettled", "failures", "retries")},
        "unknown": costs.unknown(since, until),
        **{f"by_{name}": groups[name] for name in ("step", "flow", "kind", "model")},
        "by": by,
        "rows": groups[by],
        "rows_left_out": left_out,
    }


def report_top(costs: Costs, by: str, *, since: str, until: str, limit: int = 10) -> dict[str, Any]:
    """The dearest of a period, and what changed most against the period of the same length before it."""
    before = period_before(since, until)
    names = DIMENSIONS[by].columns
    now, then = costs.total(since, until), costs.total(*before)
    return {
        "schema": TOP_SCHEMA,
        "currency": "USD",
        "by": by,
        "since": since,
        "until": until,
        **_sum_group(now),
        "before": {"since": before[0], "until": before[1], **_sum_group(then)},
        "more_usd": format_nano(now.nano - then.nano),
        **{part: _part(costs.total(since, until, part)) for part in ("failures", "retries")},
        "dearest": _rows(by, costs.group(by, since=since, until=until, limit=limit)),
        "changed": [
            {
                **dict(zip(names, change.name, strict=True)),
                "known_usd": format_nano(change.nano),
                "before_usd": format_nano(change.before_nano),
                "more_usd": format_nano(change.more_nano),
                "unknown_events": change.unknown + change.before_unknown,
            }
            for change in costs.changes(by, before, (since, until), limit)
        ],
        "unknown": costs.unknown(since, until),
    }


def sum_known(events: Iterable[UsageEvent]) -> tuple[int, int]:
    """(nano-USD of the events that have a price, how many have none)."""
    known = unknown = 0
    for event in events:
        if event.cost_nano is None:
            unknown += 1
        else:
            known += event.cost_nano
    return known, unknown


def _known(rows: Sequence[UsageEvent]) -> int:
    return sum_known(rows)[0]


def _sum(rows: Sequence[UsageEvent]) -> dict[str, Any]:
    known, unknown = sum_known(rows)
    return {
        "total_usd": None if unknown else format_nano(known),
        "known_usd": format_nano(known),
        "unknown_events": unknown,
        **{name: sum(getattr(event, name) for event in rows) for name in _COUNTED},
    }


def _sum_group(group: Group) -> dict[str, Any]:
    return {
        "total_usd": None if group.unknown else format_nano(group.nano),
        "known_usd": format_nano(group.nano),
        "unknown_events": group.unknown,
        **{name: group.counts[name] for name in _COUNTED},
        "events": group.events,
    }


def _rows(by: str, groups: Iterable[Group]) -> list[dict[str, Any]]:
    names = DIMENSIONS[by].columns
    return [{**dict(zip(names, group.name, strict=True)), **_sum_group(group)} for group in groups]


def _part(group: Group) -> dict[str, Any]:
    return {
        "events": group.events,
        "known_usd": format_nano(group.nano),
        "unknown_events": group.unknown,
    }


def _name_of(event: UsageEvent, name: str) -> str:
    return event.occurred_at[:10] if name == "day" else str(getattr(event, name))


def _group(
    rows: Sequence[UsageEvent],
    names: tuple[str, ...],
    key: Callable[[UsageEvent], tuple[str, ...]],
    *,
    attempts: bool = False,
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[UsageEvent]] = {}
    for event in rows:
        groups.setdefault(key(event), []).append(event)
    report = []
    for values in sorted(groups):
        members = groups[values]
        line: dict[str, Any] = dict(zip(names, values, strict=True))
        if attempts:
            line["attempts"] = len({(event.iteration, event.attempt) for event in members})
        report.append(line | _sum(members) | {"events": len(members)})
    return report


def _unknown(rows: Sequence[UsageEvent]) -> list[dict[str, Any]]:
    """What has no price, so that the operator knows which line to add to which file."""
    found: dict[tuple[str, str, str, str], int] = {}
    for event in rows:
        if event.cost_nano is None:
            key = (event.kind, event.provider, event.model, event.price)
            found[key] = found.get(key, 0) + 1
    return [
        {"kind": kind, "provider": provider, "model": model, "price": price, "events": count}
        for (kind, provider, model, price), count in sorted(found.items())
    ]
