"""Settings of a flow that contradict each other or say nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from maestro_dagster.manifest.dialect import Path, Remark
from maestro_dagster.manifest.model import Flow, Param, Trigger
from maestro_dagster.manifest.suggest import did_you_mean
from maestro_dagster.manifest.trigger import ACTIONS, FILTERS, REPOSITORY_EVENTS

_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?#-]{1,64}")
_CRON_FIELDS = 5


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS_OF_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and int(value) == value,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def fits_type(value: Any, type_name: str) -> bool:
    """Whether a value is of the type that a parameter declares."""
    return _IS_OF_TYPE[type_name](value)


def check_settings(flow: Flow) -> Iterator[Remark]:
    """Parameters, triggers and data classes that cannot mean what they say."""
    for name, param in flow.params.items():
        yield from _check_param(param, ("params", name))
    for number, trigger in enumerate(flow.on):
        path: Path = ("on", number)
        if trigger.event == "schedule" and not _is_cron(trigger.schedule or ""):
            given = f"`{trigger.schedule[:64]}`" if trigger.schedule else "nothing"
            message = f"a schedule is five fields of cron, this is {given}"
            yield Remark("schedule", message, 'Write for example {schedule: "0 7 * * *"}.', path)
        elif trigger.event != "schedule" and trigger.schedule is not None:
            yield Remark("schedule", f"`{trigger.event}` takes no schedule", "Remove it.", path)
        yield from _check_filters(trigger, path)
    known = {*flow.params, *flow.inputs}
    for name in flow.data_classes:
        if name not in known:
            remedy = did_you_mean(name, known, otherwise="Name a parameter or an input.")
            message = f"`data_classes` names `{name[:64]}`, which is neither parameter nor input"
            yield Remark("data-class", message, remedy, ("data_classes", name), of_key=True)


def _check_filters(trigger: Trigger, path: Path) -> Iterator[Remark]:
    if trigger.branches and trigger.event not in REPOSITORY_EVENTS:
        yield Remark("trigger-filter", f"`{trigger.event}` has no branches", "Remove `branches`.", path)
    for name, events in FILTERS.items():
        if getattr(trigger, name) and trigger.event not in events:
            message = f"`{trigger.event}` cannot be told apart by `{name}`"
            yield Remark("trigger-filter", message, f"Only {', '.join(events)} can; remove it.", path)
    for action in trigger.actions:
        known = ACTIONS.get(trigger.event, ())
        if known and action not in known:
            message = f"`{trigger.event}` has no action `{action}`"
            yield Remark("trigger-filter", message, f"Its actions: {', '.join(known)}.", path)


def _check_param(param: Param, path: Path) -> Iterator[Remark]:
    name = path[-1]
    if param.default is not None and not fits_type(param.default, param.type):
        message = f"the default of the parameter `{name}` is no {param.type}"
        yield Remark("param-default", message, "Change the default or the type.", (*path, "default"))
    elif param.default is not None and param.enum is not None and param.default not in param.enum:
        message = f"the default of the parameter `{name}` is not among its values"
        yield Remark("param-default", message, "Add it to `enum` or choose another.", (*path, "default"))
    for number, value in enumerate(param.enum or ()):
        if not fits_type(value, param.type):
            message = f"a value of the parameter `{name}` is no {param.type}"
            yield Remark("param-enum", message, "Change the value or the type.", (*path, "enum", number))
    if param.required and param.default is not None:
        message = f"the parameter `{name}` is required, so its default is never used"
        remedy = "Remove `required` or `default`."
        yield Remark("param-default", message, remedy, (*path, "default"), "warning")


def _is_cron(text: str) -> bool:
    fields = text.split()
    return len(fields) == _CRON_FIELDS and all(_CRON_FIELD.fullmatch(field) for field in fields)
