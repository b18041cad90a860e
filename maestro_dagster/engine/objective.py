"""slos.json: what was promised of a run, what was measured, and whether it was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from maestro_dagster.engine.row import RunRow, StepRow

# From the product's service levels: publish to start p95 < 5 s, a run <= 10 min, runs succeed.
_START_MS = 5_000
_RUN_MS = 600_000


def measure_objectives(run: RunRow, rows: Sequence[StepRow]) -> dict[str, Any]:
    """Times in whole milliseconds; `met` is None where there was nothing to measure."""
    begun = min((row.started_at for row in rows if row.started_at is not None), default=None)
    received = received_at(run)
    start = None if begun is None else max(0, round((begun - received) * 1000))
    opened = run.started_at or run.requested_at
    duration = max(0, round(((run.finished_at or opened) - opened) * 1000))
    succeeded = run.status == "succeeded"
    return {
        "schema": "maestro.slos/v1",
        "publish_to_start_ms": start,
        "run_duration_ms": duration,
        "success": succeeded,
        "steps": dict(sorted(Counter(row.status for row in rows).items())),
        "attempts": sum(row.attempts for row in rows),
        "objectives": [
            {
                "name": "publish_to_start",
                "target_ms": _START_MS,
                "measured_ms": start,
                "met": None if start is None else start < _START_MS,
            },
            {
                "name": "run_duration",
                "target_ms": _RUN_MS,
                "measured_ms": duration,
                "met": duration <= _RUN_MS if begun is not None else None,
            },
            {"name": "run_success", "met": succeeded if run.status in {"succeeded", "failed"} else None},
        ],
    }


def received_at(run: RunRow) -> float:
    """When the event came in that caused the run, else when it was requested; seconds since the epoch."""
    text = str(run.git.get("received_at", ""))
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return run.requested_at
