"""A frozen catalogue, so that the expected messages do not move with the kinds that are installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

_ANY: dict[str, Any] = {}
_TEXT = {"type": "string"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "pkg:http/get@1.0.0": {
        "properties": {
            "url": {"type": "string", "maxLength": 8192},
            "headers": {"type": "object", "additionalProperties": _TEXT},
            "timeout_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "seconds"},
            "max_bytes": {"type": "integer", "minimum": 1},
        },
        "required": ["url"],
    },
    "pkg:feed/parse@1.0.0": {"properties": {"max_entries": {"type": "integer", "minimum": 1}}},
    "pkg:text/template@1.0.0": {
        "properties": {"template": _TEXT, "values": {"type": "object", "additionalProperties": True}},
        "required": ["template"],
    },
    "pkg:llm/generate@1.0.0": {
        "properties": {
            "prompt": _TEXT,
            "provider": _TEXT,
            "model": _TEXT,
            "output": _TEXT,
            "route": {"type": "object", "additionalProperties": True},
            "budget_tokens": {"type": "integer", "minimum": 0},
        }
    },
    "pkg:llm/plan@1.0.0": {
        "properties": {
            "prompt": _TEXT,
            "provider": _TEXT,
            "model": _TEXT,
            "budget_tokens": {"type": "integer", "minimum": 0},
        }
    },
    "pkg:control/branch@1.0.0": {
        "properties": {
            "value": _ANY,
            "cases": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "default": {"type": "array", "items": _TEXT},
        },
        "required": ["value", "cases"],
    },
    "pkg:control/map@1.0.0": {
        "properties": {
            "items": _ANY,
            "uses": _TEXT,
            "with": {"type": "object", "additionalProperties": True},
            "concurrency": {"type": "integer", "minimum": 1, "maximum": 16},
        },
        "required": ["uses"],
    },
}


class FrozenCatalogue:
    def uses(self) -> Iterable[str]:
        return SCHEMAS

    def config_schema(self, uses: str) -> Mapping[str, Any] | None:
        if uses not in SCHEMAS:
            return None
        return {"type": "object", "additionalProperties": False, **SCHEMAS[uses]}

    def is_asset(self, uses: str) -> bool:
        return not uses.startswith("pkg:control/")


@pytest.fixture(scope="session")
def catalogue() -> FrozenCatalogue:
    return FrozenCatalogue()
