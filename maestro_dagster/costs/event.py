"""Making usage events: who used it, what it was, what it cost."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from maestro_dagster.costs.interface import UsageEvent, UsageKind, UsagePhase
from maestro_dagster.costs.rate import RateCard

DEFAULT_RETENTION_TIER = "standard-365d"  # of flows that name none


@dataclass(frozen=True, slots=True)
class UsageScope:
    """The attempt that usage is attributed to. `iteration` is -1 outside control/map.

    `retention_tier` is the flow's. `subject` is the surrogate of the person who asked for the run, never a
    name: empty where nobody is known.
    """

    tenant: str
    run_id: str
    flow: str
    step: str
    attempt: int
    env: str = "dev"
    iteration: int = -1
    project: str = "default"
    retention_tier: str = DEFAULT_RETENTION_TIER
    subject: str = ""

    def make_event(
        self,
        kind: UsageKind,
        *,
        event_id: str = "",
        phase: UsagePhase = "settled",
        provider: str = "maestro",
        model: str = "",
        tokens_in: int = 0,
        tokens_out: int = 0,
        tokens_cached: int = 0,
        cpu_ms: int = 0,
        memory_kb_ms: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        wall_ms: int = 0,
        cost_nano: int | None = None,
        price: str = "",
        outcome: str = "ok",
        occurred_at: str = "",
        estimated: bool = False,
    ) -> UsageEvent:
        return UsageEvent(
            event_id=event_id or uuid.uuid4().hex,
            phase=phase,
            tenant=self.tenant,
            run_id=self.run_id,
            flow=self.flow,
            step=self.step,
            iteration=self.iteration,
            attempt=self.attempt,
            kind=kind,
            provider=provider,
            model=model,
            env=self.env,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            tokens_cached=tokens_cached,
            cpu_ms=cpu_ms,
            memory_kb_ms=memory_kb_ms,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            wall_ms=wall_ms,
            cost_nano=cost_nano,
            price=price,
            outcome=outcome,
            occurred_at=occurred_at or format_time(),
            estimated=estimated,
            project=self.project,
            retention_tier=self.retention_tier,
            subject=self.subject,
        )

    def event_id(self, kind: UsageKind, direction: str = "") -> str:
        """The same for the same attempt, so writing it again after a crash counts once."""
        name = f"{self.run_id}/{self.step}/{self.iteration}/{self.attempt}/{kind}"
        return f"{name}/{direction}" if direction else name


def price_attempt(
    rates: RateCard,
    scope: UsageScope,
    *,
    started_at: float,
    cpu_ms: int,
    wall_ms: int,
    memory_kb_ms: int = 0,
    bytes_in: int = 0,
    bytes_out: int = 0,
    bytes_stored: int = 0,
    outcome: str = "ok",
) -> list[UsageEvent]:
    """What an attempt used apart from model calls: compute always, the rest when there was any.

    Each event has one quantity and one price, so that one explains the other: the network has an event for
    each direction. `started_at` is seconds since the epoch; outcome is `ok`, `failed` or `cancelled`.
    """
    when = format_time(started_at)
    day = when[:10]

    def make(kind: UsageKind, priced: tuple[int | None, str], direction: str = "", **used: Any) -> UsageEvent:
        return scope.make_event(
            kind,
            event_id=scope.event_id(kind, direction),
            cost_nano=priced[0],
            price=priced[1],
            outcome=outcome,
            occurred_at=when,
            **used,
        )

    compute = rates.price_compute(cpu_ms, day, wall_ms=wall_ms)
    events = [make("compute", compute, cpu_ms=cpu_ms, wall_ms=wall_ms)]
    if memory_kb_ms:
        events.append(make("memory", rates.price_memory(memory_kb_ms, day), memory_kb_ms=memory_kb_ms))
    if bytes_in:
        events.append(make("network", rates.price_network(bytes_in, 0, day), "in", bytes_in=bytes_in))
    if bytes_out:
        events.append(make("network", rates.price_network(0, bytes_out, day), "out", bytes_out=bytes_out))
    if bytes_stored:
        events.append(make("storage", rates.price_storage(bytes_stored, day), bytes_out=bytes_stored))
    return events


def format_time(seconds: float | None = None) -> str:
    """RFC 3339 UTC with microseconds, now by default."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
