"""Making usage events: who used it, what it was, what it cost."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from maestro_dagster.costs.interface import UsageEvent, UsageKind, UsagePhase
from maestro_dagster.costs.rate import RateCard


@dataclass(frozen=True, slots=True)
class UsageScope:
    """The attempt that usage is attributed to. `iteration` is -1 outside control/map."""

    tenant: str
    run_id: str
    flow: str
    step: str
    attempt: int
    env: str = "dev"
    iteration: int = -1

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
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            wall_ms=wall_ms,
            cost_nano=cost_nano,
            price=price,
            outcome=outcome,
            occurred_at=occurred_at or format_time(),
            estimated=estimated,
        )

    def event_id(self, kind: UsageKind) -> str:
        """The same for the same attempt, so writing it again after a crash counts once."""
        return f"{self.run_id}/{self.step}/{self.iteration}/{self.attempt}/{kind}"


def price_attempt(
    rates: RateCard,
    scope: UsageScope,
    *,
    started_at: float,
    cpu_ms: int,
    wall_ms: int,
    bytes_in: int = 0,
    bytes_out: int = 0,
    bytes_stored: int = 0,
    outcome: str = "ok",
) -> list[UsageEvent]:
    """What an attempt used apart from model calls: compute always, network and storage when there was any.

    `started_at` is seconds since the epoch; outcome is `ok`, `failed` or `cancelled`.
    """
    when = format_time(started_at)
    day = when[:10]
    nano, price = rates.price_compute(cpu_ms, day)
    events = [
        scope.make_event(
            "compute",
            event_id=scope.event_id("compute"),
            cpu_ms=cpu_ms,
            wall_ms=wall_ms,
            cost_nano=nano,
            price=price,
            outcome=outcome,
            occurred_at=when,
        )
    ]
    if bytes_in or bytes_out:
        nano, price = rates.price_network(bytes_in, bytes_out, day)
        events.append(
            scope.make_event(
                "network",
                event_id=scope.event_id("network"),
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                cost_nano=nano,
                price=price,
                outcome=outcome,
                occurred_at=when,
            )
        )
    if bytes_stored:
        nano, price = rates.price_storage(bytes_stored, day)
        events.append(
            scope.make_event(
                "storage",
                event_id=scope.event_id("storage"),
                bytes_out=bytes_stored,
                cost_nano=nano,
                price=price,
                outcome=outcome,
                occurred_at=when,
            )
        )
    return events


def format_time(seconds: float | None = None) -> str:
    """RFC 3339 UTC with microseconds, now by default."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
