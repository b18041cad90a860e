"""What a step is estimated to cost apart from its model calls, which are reserved one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maestro_dagster.engine.services import Services
from maestro_dagster.steps.interface import Estimate, StepKind

_MEMORY = 10**9  # bytes that a step is taken to hold for each second of CPU time


def forecast_work(
    services: Services, kind: StepKind[Any], config: Mapping[str, Any], when: str
) -> int | None:
    """10^-9 USD of an attempt with this resolved configuration; None: some price is unknown."""
    try:
        estimate = kind.estimate(kind.config.model_validate(config))
    except ValueError:
        return 0  # it cannot begin either
    return price_work(services, estimate, when)


def price_work(services: Services, estimate: Estimate, when: str) -> int | None:
    """`when` starts with YYYY-MM-DD."""
    cpu_ms = round(estimate.cpu_seconds * 1000)
    compute, _ = services.rates.price_compute(cpu_ms, when, wall_ms=cpu_ms)
    memory, _ = services.rates.price_memory(round(estimate.cpu_seconds * _MEMORY), when)
    storage, _ = services.rates.price_storage(estimate.bytes_out, when) if estimate.bytes_out else (0, "")
    return None if compute is None or memory is None or storage is None else compute + memory + storage
