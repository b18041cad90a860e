"""`tasks:` with `needs`: the canonical dialect, whose form is the model's own."""

from __future__ import annotations

from typing import Any

from maestro_dagster.manifest.dialect import Source, add_needs, resolve_uses, top_level
from maestro_dagster.manifest.document import Map, plain
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.normal import declared_form
from maestro_dagster.manifest.trigger import write_triggers


def read_tasks(tree: Map) -> Source:
    document = top_level(tree, frozenset({"tasks"}))
    tasks = plain(tree["tasks"])
    source = Source("tasks", tree, document, origin=lambda path: path)
    document["tasks"] = tasks
    for task in tasks if isinstance(tasks, list) else ():
        if isinstance(task, dict):
            add_needs(task, resolve_uses(task))
    return source


def write_tasks(flow: Flow) -> dict[str, Any]:
    """The document of a flow: keys in reading order, defaults left out."""
    form = declared_form(flow)
    if "on" in form:
        form["on"] = write_triggers(form["on"])
    return form
