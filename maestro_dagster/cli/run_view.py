"""Runs as the commands print them: the stable JSON, and lines for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView, StepOutcome

EXIT_CODES = {"succeeded": 0, "failed": 1, "denied": 3, "cancelled": 4}
CLOSED = frozenset(EXIT_CODES)
STATUSES = ("requested", "running", *EXIT_CODES)
_COLOURS = {
    "done": "green", "succeeded": "green", "reused": "green", "failed": "red", "denied": "red",
    "cancelled": "yellow", "skipped": "yellow", "running": "cyan",
}  # fmt: skip


def step_json(step: StepOutcome) -> dict[str, Any]:
    """Times are seconds since the epoch; `cost_usd` is a decimal string, null when the price is unknown."""
    return {
        "id": step.step,
        "uses": step.uses,
        "status": step.status,
        "attempts": step.attempts,
        "output_digest": step.artifact.digest if step.artifact else None,
        "duration_ms": step.duration_ms,
        "cost_usd": None if step.cost_nano is None else format_nano(step.cost_nano),
        "tokens": step.tokens,
        "started_at": step.started_at,
        "finished_at": step.finished_at or None,
        "error": dict(step.error) if step.error else None,
    }


def run_json(view: RunView, *, steps: bool = True, orphaned: bool = False) -> dict[str, Any]:
    """`orphaned`: the run was begun and no living process works on it."""
    form: dict[str, Any] = {
        "run_id": view.run_id,
        "flow": view.flow,
        "flow_version": view.flow_version,
        "flow_digest": view.flow_digest,
        "status": view.status,
        "orphaned": orphaned,
        "cause": view.cause,
        "partition": view.partition,
        "git": dict(view.git),
        "requested_at": view.requested_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "evidence": view.evidence,
        "error": dict(view.error) if view.error else None,
    }
    if steps:
        form["steps"] = [step_json(step) for step in in_order(view.steps)]
        form["decision"] = view.decision
    return form


def in_order(steps: Sequence[StepOutcome]) -> list[StepOutcome]:
    """In the order in which they began; those that never did stand last."""
    return sorted(steps, key=lambda step: (step.started_at is None, step.started_at or 0.0))


def run_columns() -> list[str]:
    return ["run", "flow", "status", "cause", "started", "took", "evidence"]


def run_row(view: RunView, *, orphaned: bool = False) -> list[Any]:
    return [
        view.run_id,
        view.flow,
        "stalled" if orphaned else view.status,
        view.cause,
        format_time(view.started_at or view.requested_at),
        format_took(view),
        view.evidence,
    ]


def step_columns() -> list[str]:
    return ["step", "status", "attempts", "time", "cost", "output"]


def step_row(step: StepOutcome) -> list[Any]:
    return [
        step.step,
        step.status,
        step.attempts,
        f"{step.duration_ms / 1000:.2f} s" if step.started_at else None,
        None if step.cost_nano is None else f"${format_nano(step.cost_nano)}",
        step.artifact.digest[:19] if step.artifact else first_line((step.error or {}).get("fact")),
    ]


def first_line(text: str | None, width: int = 60) -> str | None:
    """What fits a cell: foreign code may fail with a whole traceback. All of it stands in logs and JSON."""
    lines = (text or "").strip().splitlines()
    if not lines:
        return None
    head = lines[0].rstrip()
    if len(head) > width:
        return head[: width - 3].rstrip() + "..."
    return head if len(lines) == 1 else head[: width - 4] + " ..."


def stalled_hint(run_id: str) -> str:
    return f"run {run_id} is stalled: no process works on it; `maestro retry {run_id}` goes on with it"


def format_time(seconds: float) -> str:
    """Local time without the date's year: `11-21 10:04:09`."""
    import time

    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))


def format_took(view: RunView) -> str | None:
    if view.started_at is None or view.finished_at is None:
        return None
    return f"{view.finished_at - view.started_at:.1f} s"


def status_text(status: str, *, colour: bool) -> str:
    return click.style(status, fg=_COLOURS.get(status)) if colour else status


def follow_run(
    read: Callable[[], RunView], tell: Callable[[StepOutcome], None], stop: Callable[[], bool]
) -> RunView:
    """Calls `tell` for each step as it ends, until the run is closed or `stop` says so."""
    import time

    told: set[str] = set()
    while True:
        view = read()
        for step in view.steps:
            if step.step not in told and step.status not in {"waiting", "running"}:
                told.add(step.step)
                tell(step)
        if (view.status in CLOSED and view.evidence) or stop():
            return view
        time.sleep(0.25)
