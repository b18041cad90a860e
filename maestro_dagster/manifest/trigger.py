"""The spellings of `on:` that people know, read into one list of triggers.

`push` · `[push, pr]` · `{schedule: "0 7 * * *"}` · `{push: {branches: [main]}}` ·
`{event: push, paths: [src/*]}` · `{pr: {labels: [deploy], forks: true}}` ·
`{pipeline: {conclusions: [failure]}}`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REPOSITORY_EVENTS = ("push", "tag", "pr", "release", "delete", "pipeline", "check")
EVENTS = ("push", "pr", "tag", "release", "schedule", "manual", "delete", "pipeline", "check")
# What a forge says was done to a pull request, a release, a pipeline or a check, in one spelling for all.
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "pr": ("opened", "updated", "reopened", "ready", "edited", "labeled", "unlabeled", "closed", "merged"),
    "release": ("published", "created", "edited", "deleted"),
    "pipeline": ("requested", "completed"),
    "check": ("requested", "completed"),
}
CONCLUSIONS = (
    "success",
    "failure",
    "cancelled",
    "skipped",
    "neutral",
    "timed_out",
    "action_required",
    "stale",
)
# The filters that mean something, besides `branches`; each says which events can tell it.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "paths": ("push", "pr", "tag"),
    "labels": ("pr",),
    "actions": tuple(ACTIONS),
    "conclusions": ("pipeline", "check"),
    "forks": ("pr", "pipeline", "check"),
}

_PATTERNS = {"type": "array", "items": {"type": "string"}}
_ACTION = {"enum": list(dict.fromkeys(action for actions in ACTIONS.values() for action in actions))}
_FILTERS = {
    "branches": _PATTERNS,
    "paths": _PATTERNS,
    "labels": _PATTERNS,
    "actions": {"type": "array", "items": _ACTION},
    "conclusions": {"type": "array", "items": {"enum": list(CONCLUSIONS)}},
    "forks": {"type": "boolean"},
}
_CRON = {"type": "string", "description": "cron, five fields"}
_TRIGGER: dict[str, Any] = {
    "anyOf": [
        {"enum": list(EVENTS)},
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["event"],
            "properties": {"event": {"enum": list(EVENTS)}, **_FILTERS, "schedule": _CRON},
        },
        {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": {
                **{
                    event: {"type": ["object", "null"], "additionalProperties": False, "properties": _FILTERS}
                    for event in EVENTS
                    if event != "schedule"
                },
                "schedule": {
                    "anyOf": [
                        _CRON,
                        {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["cron"],
                                "properties": {"cron": _CRON},
                            },
                        },
                    ]
                },
            },
        },
    ]
}
# What `on:` may hold in a file, as JSON Schema.
INPUT_SCHEMA: dict[str, Any] = {
    "anyOf": [*_TRIGGER["anyOf"], {"type": "array", "items": _TRIGGER}],
    "description": "What starts the flow",
}


def read_triggers(value: Any) -> Any:
    """`on:` as a list of trigger objects; what it does not know stays as it is, for the schema to refuse."""
    if isinstance(value, str | Mapping):
        return _expand(value)
    if isinstance(value, Sequence):
        return [trigger for each in value for trigger in _expand(each)]
    return value


def _expand(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [{"event": value}]
    if not isinstance(value, Mapping) or "event" in value or not value:
        return [value]
    if not any(name in EVENTS for name in value):
        return [value]
    return [trigger for event, filters in value.items() for trigger in _one(event, filters)]


def _one(event: str, filters: Any) -> list[Any]:
    if filters is None or filters == {}:
        return [{"event": event}]
    if event == "schedule":
        if isinstance(filters, str):
            return [{"event": event, "schedule": filters}]
        crons = filters if isinstance(filters, list) else []
        if crons and all(isinstance(each, Mapping) and set(each) == {"cron"} for each in crons):
            return [{"event": event, "schedule": each["cron"]} for each in crons]
    if isinstance(filters, Mapping) and "event" not in filters:
        return [{"event": event, **filters}]
    return [{"event": event, "filters": filters}]


def write_triggers(triggers: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The shortest spelling of each trigger; `read_triggers` reads it back."""
    return [_shorten(trigger) for trigger in triggers]


def _shorten(trigger: Mapping[str, Any]) -> Any:
    if set(trigger) == {"event"}:
        return trigger["event"]
    if set(trigger) == {"event", "schedule"} and trigger["event"] == "schedule":
        return {"schedule": trigger["schedule"]}
    return dict(trigger)
