"""`steps:` in order with `uses`: the pipeline form.

A step without `needs` needs the step before it, `needs: []` means none, and `context_from` (beside
`with` or in it) adds needs. Writers always write `needs`, so that nothing depends on the order.
"""

from __future__ import annotations

from typing import Any

from maestro_dagster.manifest.alias import take_context
from maestro_dagster.manifest.dialect import Path, Source, add_needs, resolve_uses, top_level
from maestro_dagster.manifest.dialect_tasks import write_tasks
from maestro_dagster.manifest.document import Map, plain
from maestro_dagster.manifest.model import Flow

DEFAULT_VERSION = "0.0.0"


def read_steps(tree: Map) -> Source:
    document = top_level(tree, frozenset({"steps"}))
    source = Source("steps", tree, document, origin=_origin)
    if "version" not in tree:
        document["version"] = DEFAULT_VERSION
        source.warn(
            "version-missing",
            f"the flow has no version; it counts as {DEFAULT_VERSION}",
            "Add `version: 1.0.0`.",
            (),
        )
    steps = plain(tree["steps"])
    document["tasks"] = steps
    before: str | None = None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict):
            _read_step(step, before)
            before = step["id"] if isinstance(step.get("id"), str) else None
    return source


def _read_step(step: dict[str, Any], before: str | None) -> None:
    if "needs" not in step and before is not None:
        step["needs"] = [before]
    context = take_context(step)
    if isinstance(step.get("with"), dict):
        context += take_context(step["with"])
    add_needs(step, context + resolve_uses(step))


def _origin(path: Path) -> Path:
    return ("steps", *path[1:]) if path[:1] == ("tasks",) else path


def write_steps(flow: Flow) -> dict[str, Any]:
    form = write_tasks(flow)
    steps = [_write_step(task) for task in form.pop("tasks")]
    return {**form, "steps": steps}


def _write_step(task: dict[str, Any]) -> dict[str, Any]:
    head = {"id": task["id"], "uses": task["uses"], "needs": task.get("needs", [])}
    return {**head, **{key: value for key, value in task.items() if key not in head}}
