"""Usage events for the tests of the costs room."""

from __future__ import annotations

from typing import Any

from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.interface import UsageEvent

DAY = "2026-03-01"


def make_event(run_id: str = "run-1", **values: Any) -> UsageEvent:
    scope = UsageScope("tenant", run_id, "flow", values.pop("step", "step"), values.pop("attempt", 1))
    values.setdefault("occurred_at", f"{DAY}T10:00:00.000000Z")
    return scope.make_event(values.pop("kind", "llm"), **values)
