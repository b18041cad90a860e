"""What the model refuses, in words for the person who wrote the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from maestro_dagster.manifest.dialect import Path, Remark
from maestro_dagster.manifest.model import Budget, Export, Flow, Param, Resources, Task, Trigger
from maestro_dagster.manifest.suggest import did_you_mean

_MODELS: Mapping[str, type[BaseModel]] = {
    "tasks": Task,
    "params": Param,
    "on": Trigger,
    "budget": Budget,
    "export": Export,
    "resources": Resources,
}
# What a text has to look like, by the last name of its path.
_FORMS: Mapping[str, str] = {
    "name": "3 to 64 letters, digits, `-` or `_` of ASCII",
    "id": "1 to 64 letters, digits, `-` or `_` of ASCII",
    "needs": "the id of a step: 1 to 64 letters, digits, `-` or `_` of ASCII",
    "version": "three numbers such as `1.0.0`, or `1.0.0-rc.1`",
    "uses": "a pinned kind such as `pkg:http/get@1.0.0`, or one of the older names such as `llm.generate`",
    "usd": "an amount of dollars with at most 9 decimal places",
}
_TYPES: Mapping[str, str] = {
    "string_type": "a text",
    "bool_type": "`true` or `false`",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "dict_attributes_type": "a map",
}
_LIMITS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
}


def explain(error: Mapping[str, Any]) -> Remark:
    """One error of pydantic as a remark; its path is that of the canonical document."""
    path: Path = tuple(error["loc"])
    kind = str(error["type"])
    explainer = _EXPLAINERS.get(kind)
    if explainer is not None:
        return explainer(path, error)
    if kind in _TYPES:
        return _wrong_type(path, error)
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return _bad_value(path, f"has to be {words} {error['ctx'][key]}", "Change the number.")
    return _bad_value(path, f"is refused: {error['msg']}", "See `maestro schema`.")


def name_of(path: Path) -> str:
    """`tasks[2].retries`, as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:64]}" if text else str(part)[:64]
    return text or "the flow"


def fields_of(path: Path) -> tuple[str, ...]:
    """The keys that the object at `path` knows."""
    model: type[BaseModel] = Flow
    for part in path:
        if isinstance(part, str) and part in _MODELS:
            model = _MODELS[part]
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _unknown_key(path: Path, _error: Mapping[str, Any]) -> Remark:
    key, parent = str(path[-1]), path[:-1]
    known = fields_of(parent)
    where = f"`{name_of(parent)}` knows" if parent else "a flow knows"
    remedy = did_you_mean(key, known, otherwise=f"It knows {', '.join(known)}.")
    return Remark("unknown-key", f"{where} no key `{key[:64]}`", remedy, path, of_key=True)


def _missing_key(path: Path, _error: Mapping[str, Any]) -> Remark:
    key, parent = path[-1], path[:-1]
    form = _FORMS.get(str(key), "")
    return Remark(
        "missing-key",
        f"{'`' + name_of(parent) + '`' if parent else 'the flow'} has no `{key}`",
        f"Add `{key}`" + (f": {form}." if form else "."),
        parent,
    )


def _wrong_type(path: Path, error: Mapping[str, Any]) -> Remark:
    wanted = _TYPES[str(error["type"])]
    given = _kind_of(error["input"])
    remedy = f"Write {wanted} here."
    if wanted == "a text" and given in ("a number", "a truth value"):
        remedy = f'Put it in quotes: "{str(error["input"])[:40]}".'
    elif wanted == "a list" and given == "a text":
        remedy = f"Write it as a list: [{str(error['input'])[:64]}]."
    return Remark("wrong-type", f"`{name_of(path)}` is {given}, it has to be {wanted}", remedy, path)


def _kind_of(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a map" if isinstance(value, Mapping) else "a list"


def _pattern(path: Path, error: Mapping[str, Any]) -> Remark:
    names = [part for part in path if isinstance(part, str)]
    form = _FORMS.get(names[-1] if names else "", "")
    value = str(error["input"])
    remedy = f"Write {form}." if form else f"It has to match {error['ctx']['pattern']}."
    shown = value if len(value) <= 64 else value[:61] + "..."  # noqa: PLR2004
    return _bad_value(path, f"is {_visible(shown)}, which has the wrong form", remedy)


def _visible(text: str) -> str:
    """A text in backquotes, with what cannot be seen or looks like something else spelt out."""
    strange = sorted({letter for letter in text if not ("\x20" <= letter <= "\x7e")})
    shown = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    if not strange:
        return f"`{shown}`"
    import unicodedata

    names = ", ".join(
        f"U+{ord(letter):04X} {unicodedata.name(letter, 'control character')}" for letter in strange[:3]
    )
    return f"`{shown}` (with {names})"


def _literal(path: Path, error: Mapping[str, Any]) -> Remark:
    expected = [
        each.strip().strip("'") for each in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")
    ]
    given = str(error["input"])[:64]
    remedy = did_you_mean(given, expected, otherwise=f"It is one of {', '.join(expected)}.")
    return _bad_value(path, f"is `{given}`, which it cannot be", remedy)


def _too_long(path: Path, error: Mapping[str, Any]) -> Remark:
    most = error["ctx"].get("max_length")
    if path == ("tasks",):
        return Remark("too-many-steps", f"the flow has more than {most} steps", "Split it into flows.", path)
    return _bad_value(path, f"is longer than {most}", "Shorten it.")


def _too_short(path: Path, _error: Mapping[str, Any]) -> Remark:
    if path == ("tasks",):
        return Remark("no-steps", "the flow has no step", "Add at least one.", path)
    return _bad_value(path, "is too short", "Lengthen it.")


def _bad_value(path: Path, what: str, remedy: str) -> Remark:
    return Remark("bad-value", f"`{name_of(path)}` {what}", remedy, path)


_EXPLAINERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Remark]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing_key,
    "string_pattern_mismatch": _pattern,
    "literal_error": _literal,
    "too_long": _too_long,
    "string_too_long": _too_long,
    "too_short": _too_short,
}


def explain_all(errors: Sequence[Mapping[str, Any]], most: int) -> list[Remark]:
    """The first `most` errors in words, and one line for the rest."""
    remarks = [explain(error) for error in errors[:most]]
    if len(errors) > most:
        rest = len(errors) - most
        remarks.append(Remark("too-many-errors", f"there are {rest} more errors", "Mend the first ones.", ()))
    return remarks
