"""cost-report.json: what a run cost, to the nano-dollar, and what of it is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.manifest.money import format_nano

SCHEMA = "maestro.cost-report/v1"


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
        "tokens_in": sum(event.tokens_in for event in rows),
        "tokens_out": sum(event.tokens_out for event in rows),
        "tokens_cached": sum(event.tokens_cached for event in rows),
        "cpu_ms": sum(event.cpu_ms for event in rows),
        "bytes_in": sum(event.bytes_in for event in rows),
        "bytes_out": sum(event.bytes_out for event in rows),
    }


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
