"""Read a step's inputs: the one input of a kind that takes one, and values out of artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore
from maestro_dagster.errors import StepError


def read_only_input(
    inputs: Mapping[str, Artifact], step: str, name: str | None = None
) -> tuple[str, Artifact]:
    """The input called `name`, or the only one. Raises StepError (`input-missing`, `input-ambiguous`)."""
    if name is not None:
        if name not in inputs:
            raise _wrong(f"there is no input {name!r}", step, inputs, "input-missing")
        return name, inputs[name]
    if not inputs:
        raise _wrong("the step has no input", step, inputs, "input-missing")
    if len(inputs) > 1:
        raise _wrong("the step has more than one input", step, inputs, "input-ambiguous")
    return next(iter(inputs.items()))


def _wrong(fact: str, step: str, inputs: Mapping[str, Artifact], code: str) -> StepError:
    names = ", ".join(inputs) or "none"
    return StepError(fact, place=f"step {step}", remedy=f"check `needs`; its inputs are: {names}", code=code)


def is_json(media_type: str) -> bool:
    """RFC 6838 and RFC 6839: `application/json` and every `+json` type."""
    plain = media_type.partition(";")[0].strip().lower()
    return plain == "application/json" or plain.endswith("+json")


def read_json(store: ArtifactStore, artifact: Artifact, place: str) -> Any:
    """The input as a JSON value. Raises StepError (`input-not-json`)."""
    return parse_json(store.read(artifact.digest), place)


def parse_json(data: bytes, place: str) -> Any:
    """Strict: no NaN, no infinity. Raises StepError (`input-not-json`)."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StepError(
            f"the input is not JSON: {error}",
            place=place,
            remedy="check the step that made it",
            code="input-not-json",
        ) from error


def read_value(store: ArtifactStore, artifact: Artifact, place: str) -> Any:
    """JSON for a JSON media type or a tree, text for everything else that is UTF-8.

    Raises StepError (`input-not-json`, `input-not-text`).
    """
    data = store.read(artifact.digest)
    if is_json(artifact.media_type) or artifact.media_type == TREE_MEDIA_TYPE:
        return parse_json(data, place)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StepError(
            f"the input is neither JSON nor UTF-8 text ({artifact.media_type})",
            place=place,
            remedy="use a step that reads such data",
            code="input-not-text",
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
