"""What the model refuses, in words for the person who wrote the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from maestro_dagster.manifest.dialect import Path, Remark, Source
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


_NODE_KEYS: Mapping[str, str | None] = {
    "uses": "type",
    "with": "config",
    "license_class": "output",
    "needs": None,
}
_TAKEN_OUT = 64  # characters of a value that a message shows


def explain_all(errors: Sequence[Mapping[str, Any]], source: Source, most: int) -> list[Remark]:
    """The first `most` errors of pydantic in words, and one line for the rest; paths are canonical."""
    explainer = _Explainer(source)
    remarks = [remark for error in errors[:most] if (remark := explainer.explain(error)) is not None]
    if len(errors) > most:
        rest = len(errors) - most
        remarks.append(Remark("too-many-errors", f"there are {rest} more errors", "Mend the first ones.", ()))
    return remarks


class _Explainer:
    """Speaks of a path as the file's own dialect spells it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.by_type: Mapping[str, Callable[[Path, Mapping[str, Any]], Remark | None]] = {
            "extra_forbidden": self.unknown_key,
            "missing": self.missing_key,
            "string_pattern_mismatch": self.pattern,
            "literal_error": self.literal,
            "too_long": self.too_long,
            "string_too_long": self.too_long,
            "too_short": self.too_short,
        }

    def explain(self, error: Mapping[str, Any]) -> Remark | None:
        path: Path = tuple(error["loc"])
        kind = str(error["type"])
        if kind in self.by_type:
            return self.by_type[kind](path, error)
        if kind in _TYPES:
            return self.wrong_type(path, error)
        if kind in _LIMITS:
            key, words = _LIMITS[kind]
            return self.bad_value(path, f"has to be {words} {error['ctx'][key]}", "Change the number.")
        return self.bad_value(path, f"is refused: {error['msg']}", "See `maestro schema`.")

    def name(self, path: Path) -> str:
        """`tasks[2].retries`, as people write it."""
        text = ""
        for part in self.source.origin(path):
            text += f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" if text else _cut(str(part))
        return f"`{text}`" if text else "the flow"

    def fields(self, path: Path) -> list[str]:
        """The keys that the object at `path` knows."""
        model: type[BaseModel] = Flow
        for part in path:
            if isinstance(part, str) and part in _MODELS:
                model = _MODELS[part]
        names = [field.alias or name for name, field in model.model_fields.items()]
        if self.source.dialect == "nodes" and model is Task:
            return [str(_NODE_KEYS.get(name, name)) for name in names if _NODE_KEYS.get(name, name)]
        if model is Flow and self.source.dialect != "tasks":
            return [self.source.dialect if name == "tasks" else name for name in names]
        return names

    def unknown_key(self, path: Path, _error: Mapping[str, Any]) -> Remark:
        key, parent = str(path[-1]), path[:-1]
        known = self.fields(parent)
        remedy = did_you_mean(key, known, otherwise=f"It knows {', '.join(known)}.")
        message = f"{self.name(parent)} knows no key `{_cut(key)}`"
        return Remark("unknown-key", message, remedy, path, of_key=True)

    def missing_key(self, path: Path, _error: Mapping[str, Any]) -> Remark:
        key = self.source.origin(path)[-1]
        form = _FORMS.get(str(path[-1]), "")
        remedy = f"Add `{key}`" + (f": {form}." if form else ".")
        return Remark("missing-key", f"{self.name(path[:-1])} has no `{key}`", remedy, path[:-1])

    def wrong_type(self, path: Path, error: Mapping[str, Any]) -> Remark:
        wanted = _TYPES[str(error["type"])]
        value = error["input"]
        given = _kind_of(value)
        remedy = f"Write {wanted} here."
        if wanted == "a text" and given in ("a number", "a truth value"):
            remedy = "Put it in quotes."
        elif wanted == "a list" and given == "a text":
            remedy = f"Write it as a list: [{_cut(str(value))}]."
        return Remark("wrong-type", f"{self.name(path)} is {given}, it has to be {wanted}", remedy, path)

    def pattern(self, path: Path, error: Mapping[str, Any]) -> Remark:
        names = [part for part in path if isinstance(part, str)]
        form = _FORMS.get(names[-1] if names else "", "")
        remedy = f"Write {form}." if form else f"It has to match {error['ctx']['pattern']}."
        return self.bad_value(
            path, f"is {_visible(_cut(str(error['input'])))}, which has the wrong form", remedy
        )

    def literal(self, path: Path, error: Mapping[str, Any]) -> Remark:
        listed = str(error["ctx"]["expected"]).replace(" or ", ", ")
        expected = [each.strip().strip("'") for each in listed.split(",")]
        given = _cut(str(error["input"]))
        remedy = did_you_mean(given, expected, otherwise=f"It is one of {', '.join(expected)}.")
        return self.bad_value(path, f"is {_visible(given)}, which it cannot be", remedy)

    def too_long(self, path: Path, error: Mapping[str, Any]) -> Remark:
        most = error["ctx"].get("max_length")
        if path == ("tasks",):
            message = f"the flow has more than {most} steps"
            return Remark("too-many-steps", message, "Split it into flows.", path)
        return self.bad_value(path, f"is longer than {most} characters", "Shorten it.")

    def too_short(self, path: Path, error: Mapping[str, Any]) -> Remark | None:
        if path != ("tasks",):
            return self.bad_value(path, "is too short", "Lengthen it.")
        if error["input"]:
            return None  # it has steps, each refused by itself
        return Remark("no-steps", "the flow has no step", "Add at least one.", path)

    def bad_value(self, path: Path, what: str, remedy: str) -> Remark:
        return Remark("bad-value", f"{self.name(path)} {what}", remedy, path)


def _cut(text: str) -> str:
    return text if len(text) <= _TAKEN_OUT else text[: _TAKEN_OUT - 3] + "..."


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
