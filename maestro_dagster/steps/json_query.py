"""`json/query`: a JMESPath expression over JSON (https://jmespath.org/specification.html)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.child import call_in_child
from maestro_dagster.steps.input import is_json, read_only_input
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult

_TARGET = "maestro_dagster.steps.query_json:query_json"
WALL_SECONDS = 20.0


class JsonQueryConfig(StepConfig):
    query: str = Field(min_length=1, max_length=16 * 1024, description="JMESPath expression")
    input: str | None = Field(default=None, description="which input, when there is more than one")
    required: bool = Field(default=True, description="fail when the answer is null")
    max_bytes: int = Field(default=16 * 1024**2, ge=1, le=64 * 1024**2)


class JsonQuery(StepKind[JsonQueryConfig]):
    uses: ClassVar[str] = "pkg:json/query@1.0.0"
    summary: ClassVar[str] = "Pick values out of JSON with a JMESPath expression."
    config = JsonQueryConfig
    inputs: ClassVar[str] = "any"
    media_type: ClassVar[str] = "application/json"

    async def run(
        self, context: StepContext, config: JsonQueryConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        from maestro_dagster.steps.query_json import is_simple, query_json

        name, artifact = read_only_input(inputs, context.step, config.input)
        place = f"step {context.step}, input {name}"
        if not is_json(artifact.media_type):
            raise StepError(
                f"the input is {artifact.media_type}, not JSON",
                place=place,
                remedy="query the output of a step that makes JSON",
                code="input-not-json",
            )
        options: dict[str, Any] = {"query": config.query, "max_bytes": config.max_bytes, "place": place}
        data = context.store.read(artifact.digest)
        if is_simple(config.query, place):
            made = query_json(options, data)
        else:
            made = await call_in_child(_TARGET, options, data, wall_seconds=WALL_SECONDS)
        if config.required and made == b"null":
            raise StepError(
                f"nothing matches {config.query!r}",
                place=place,
                remedy="correct the query, or set required: false",
                code="query-empty",
            )
        preview = f"```json\n{made[:3900].decode('utf-8', 'ignore')}\n```"
        return StepResult(data=made, media_type=self.media_type, facts={"type": _type(made)}, preview=preview)


def _type(made: bytes) -> str:
    value = json.loads(made)
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]
