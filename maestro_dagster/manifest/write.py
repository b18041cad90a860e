"""From a flow to a text in any of the dialects; reading it back gives the same digest."""

from __future__ import annotations

import json
from typing import Any

from maestro_dagster.manifest.dialect import Dialect
from maestro_dagster.manifest.dialect_nodes import write_nodes
from maestro_dagster.manifest.dialect_steps import write_steps
from maestro_dagster.manifest.dialect_tasks import write_tasks
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.yaml_text import write_yaml

_WRITERS = {"tasks": write_tasks, "steps": write_steps, "nodes": write_nodes}


def flow_document(flow: Flow, dialect: Dialect) -> dict[str, Any]:
    """The flow as plain JSON in a dialect, in reading order."""
    return _WRITERS[dialect](flow)


def write_flow(flow: Flow, dialect: Dialect, *, as_json: bool | None = None) -> str:
    """The text of a flow; YAML for `tasks` and `steps`, JSON for `nodes` (flow.json) if nothing is said."""
    document = flow_document(flow, dialect)
    if dialect == "nodes" if as_json is None else as_json:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return write_yaml(document)
