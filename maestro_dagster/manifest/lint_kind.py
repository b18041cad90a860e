"""Whether each step's kind is installed and takes the `with` that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from maestro_dagster.manifest.dialect import MAP_KIND, Path, Remark
from maestro_dagster.manifest.interface import KindCatalogue
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.suggest import did_you_mean, nearest

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_SIMPLE: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "object": dict,
    "array": list,
}
# Words of a schema that say nothing about validity.
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated"})
_PASSED_ON = frozenset({"anyOf", "oneOf", "allOf"})


def check_kinds(flow: Flow, catalogue: KindCatalogue) -> Iterator[Remark]:
    """Unknown kinds, and configs that their kind would refuse. Expressions fit everywhere."""
    lint = _Lint(catalogue)
    for number, task in enumerate(flow.tasks):
        yield from lint.step(task.uses, task.with_, ("tasks", number, "uses"), ("tasks", number, "with"))


class _Lint:
    def __init__(self, catalogue: KindCatalogue) -> None:
        self.catalogue = catalogue
        self.schemas: dict[str, Mapping[str, Any] | Remark] = {}
        self.validators: dict[str, Validator] = {}

    def step(self, uses: str, config: dict[str, Any], uses_at: Path, config_at: Path) -> Iterator[Remark]:
        schema = self.schema(uses)
        if isinstance(schema, Remark):
            yield Remark(schema.code, schema.message, schema.remedy, uses_at)
            return
        if not _surely_fits(config, schema):
            yield from self.refusals(uses, schema, config, config_at)
        if uses == MAP_KIND and isinstance(config.get("uses"), str):
            inner = config.get("with", {})
            if isinstance(inner, dict) and "${{" not in config["uses"]:
                yield from self.step(config["uses"], inner, (*config_at, "uses"), (*config_at, "with"))

    def schema(self, uses: str) -> Mapping[str, Any] | Remark:
        if uses not in self.schemas:
            self.schemas[uses] = self._load(uses)
        return self.schemas[uses]

    def _load(self, uses: str) -> Mapping[str, Any] | Remark:
        try:
            schema = self.catalogue.config_schema(uses)
        except Exception as error:  # noqa: BLE001 - a third party's kind may raise anything on import
            message = f"the kind `{uses}` cannot be loaded: {error}"
            return Remark("kind-broken", message, "Repair or remove the package that brings it.", ())
        if schema is not None:
            return schema
        known = sorted(self.catalogue.uses())
        name = uses.partition("@")[0]
        versions = [each for each in known if each.partition("@")[0] == name]
        if versions:
            remedy = f"Installed is {', '.join(versions)}."
        else:
            # What all names share would make any two of them look near.
            names = {each.removeprefix("pkg:").partition("@")[0]: each for each in known}
            near = nearest(name.removeprefix("pkg:"), names, cutoff=0.75)
            remedy = f"Did you mean `{names[near]}`?" if near else f"Installed are {', '.join(known)}."
        return Remark("kind-unknown", f"there is no kind `{uses}`", remedy, ())

    def refusals(
        self, uses: str, schema: Mapping[str, Any], config: dict[str, Any], config_at: Path
    ) -> Iterator[Remark]:
        try:
            if uses not in self.validators:
                self.validators[uses] = open_validator(schema)
            errors = list(self.validators[uses].iter_errors(config))
        except Exception as error:  # noqa: BLE001 - a third party's schema may be anything
            message = f"the schema of the kind `{uses}` cannot be used: {error}"
            yield Remark("kind-broken", message, "Repair or remove the package that brings it.", config_at)
            return
        for refused in errors:
            if not _is_for_expression(refused):
                yield from _explain(refused, uses, schema, config_at)


def open_validator(schema: Mapping[str, Any]) -> Validator:
    """The validator of JSON Schema 2020-12 that all configs go through."""
    from jsonschema import Draft202012Validator

    from maestro_dagster.manifest.pattern import translate_schema

    return Draft202012Validator(translate_schema(dict(schema)))


def _is_for_expression(error: ValidationError) -> bool:
    """Whether the refused value is (or holds) an expression, whose type is known only when it runs."""
    if isinstance(error.instance, str):
        return "${{" in error.instance
    return error.validator in _PASSED_ON and _has_expression(error.instance)


def _has_expression(value: Any) -> bool:
    if isinstance(value, str):
        return "${{" in value
    if isinstance(value, dict):
        return any(_has_expression(each) for each in value.values())
    return isinstance(value, list) and any(_has_expression(each) for each in value)


def _surely_fits(config: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """A quick yes for the everyday config, which spares loading the validator; False means unsure."""
    properties = schema.get("properties", {})
    if set(schema) - _NOTES - {"type", "properties", "required", "additionalProperties", "$defs"}:
        return False
    if any(key not in config for key in schema.get("required", ())):
        return False
    return all(key in properties and _value_fits(value, properties[key]) for key, value in config.items())


def _value_fits(value: Any, schema: Any) -> bool:
    if isinstance(value, str) and "${{" in value:
        return True
    if not isinstance(schema, dict):
        return False
    words = set(schema) - _NOTES
    if words <= {"type", "maxLength"} and schema.get("type") == "string":
        return isinstance(value, str) and len(value) <= schema.get("maxLength", len(value))
    if words == {"type", "additionalProperties"} and schema["additionalProperties"] is True:
        return isinstance(value, dict)
    if words == {"type"} and schema["type"] == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return not words or (words == {"type"} and isinstance(value, _SIMPLE.get(str(schema["type"]), ())))


def _explain(
    error: ValidationError, uses: str, schema: Mapping[str, Any], config_at: Path
) -> Iterator[Remark]:
    path: Path = (*config_at, *error.absolute_path)
    where = f"`{'.'.join(map(str, error.absolute_path))}`" if error.absolute_path else "`with`"
    refused: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(refused.get("properties", {}))
        for key in error.instance:
            if key not in known:
                otherwise = f"It knows {', '.join(known)}." if known else "It takes no config."
                remedy = did_you_mean(key, known, otherwise=otherwise)
                message = f"{where} of `{uses}` knows no key `{key[:64]}`"
                yield Remark("config-unknown-key", message, remedy, (*path, key), of_key=True)
        return
    if error.validator == "required" and isinstance(error.instance, dict):
        for key in refused.get("required", ()):
            if key not in error.instance:
                message = f"{where} of `{uses}` has no `{key}`"
                yield Remark("config-missing-key", message, f"Add `{key}`.", path)
        return
    if error.validator in _PASSED_ON and error.context:
        options = "; or ".join(dict.fromkeys(_shorten(each.message) for each in error.context[:4]))
        message = f"{where} of `{uses}` fits none of its forms: {options}"
    else:
        message = f"{where} of `{uses}` is refused: {_shorten(error.message)}"
    described = refused.get("description")
    remedy = f"It is: {described}." if described else f"See the kind's schema ({schema.get('title', uses)})."
    yield Remark("config-bad-value", message, remedy, path)


def _shorten(text: str) -> str:
    most = 160
    return text if len(text) <= most else text[: most - 3] + "..."
