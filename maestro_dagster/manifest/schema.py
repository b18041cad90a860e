"""The JSON Schema of a flow, generated from the model so that both never part.

It describes the canonical dialect (`tasks`). What a schema cannot say (circles, needs of nothing,
expressions) is said by lint.
"""

from __future__ import annotations

import json
from typing import Any

from maestro_dagster.manifest.model import Flow

SCHEMA_ID = "urn:maestro:schema:flow:v1"
SCHEMA_VERSION = "1.0.0"


def flow_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 with `$id` and `version`."""
    schema = Flow.model_json_schema(by_alias=True, mode="validation")
    schema.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "version": SCHEMA_VERSION,
        "title": "Maestro flow, canonical dialect",
        **_without_titles(schema),
    }


def schema_text() -> str:
    """The schema as it is committed in `schemas/flow.v1.schema.json`."""
    return json.dumps(flow_schema(), indent=2, ensure_ascii=False) + "\n"


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """Without the titles that pydantic makes of field names; `names`: the keys are names, not words."""
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(each, names=not names and key in ("properties", "$defs"))
        for key, each in schema.items()
        if names or key != "title" or not isinstance(each, str)
    }
