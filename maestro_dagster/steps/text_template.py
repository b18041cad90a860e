"""`text/template`: a Jinja2 template over the inputs, in a sandbox, with bounded time and size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.child import call_in_child
from maestro_dagster.steps.input import read_value
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult

_TARGET = "maestro_dagster.steps.template_text:render_template"
WALL_SECONDS = 20.0


class TextTemplateConfig(StepConfig):
    template: str = Field(max_length=256 * 1024, description="Jinja2 source")
    values: dict[str, Any] = Field(default_factory=dict, description="names for the template")
    escape: Literal["none", "html"] = Field(default="none", description="how values are escaped")
    media_type: str = Field(default="text/plain", pattern=r"^[\w.+-]+/[\w.+-]+(; ?charset=utf-8)?$")
    max_bytes: int = Field(default=4 * 1024**2, ge=1, le=64 * 1024**2)


class TextTemplate(StepKind[TextTemplateConfig]):
    """The template sees `values` by name, `inputs.<step>` (JSON or text), and `input` when there is one only.

    An undefined name is an error. Nested loops and the like are rendered in a bounded child process.
    """

    uses: ClassVar[str] = "pkg:text/template@1.0.0"
    summary: ClassVar[str] = "Render a Jinja2 template over the inputs, in a sandbox."
    config = TextTemplateConfig
    media_type: ClassVar[str] = "text/plain"

    def estimate(self, config: TextTemplateConfig) -> Estimate:
        return Estimate(cpu_seconds=0.2, bytes_out=4 * len(config.template))

    async def run(
        self, context: StepContext, config: TextTemplateConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        from maestro_dagster.steps.template_text import is_linear, render_template

        place = f"step {context.step}"
        read = {
            name: read_value(context.store, artifact, f"{place}, input {name}")
            for name, artifact in inputs.items()
        }
        names: dict[str, Any] = {"inputs": read, **config.values}
        if len(read) == 1:
            names.setdefault("input", next(iter(read.values())))
        options = {
            "template": config.template,
            "escape": config.escape,
            "max_bytes": config.max_bytes,
            "place": place,
        }
        data = json.dumps(names).encode()
        if is_linear(config.template, place):
            made = render_template(options, data)
        else:
            made = await call_in_child(_TARGET, options, data, wall_seconds=WALL_SECONDS)
        preview = made[:4000].decode("utf-8", "ignore")
        return StepResult(data=made, media_type=config.media_type, preview=preview)
