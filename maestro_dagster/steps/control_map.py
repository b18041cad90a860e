"""`control/map`: one kind for each item of a list. The engine runs the iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult


class ControlMapConfig(StepConfig):
    items: Any = Field(
        default=None, description="an array or an expression; default: the input, a JSON array"
    )
    uses: str = Field(
        pattern=r"^pkg:[a-z0-9-]+/[a-z0-9._-]+@\d+\.\d+\.\d+$",
        description="the kind that each item runs; no control kind",
    )
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="its settings; may use ${{ item }} and ${{ index }}"
    )
    max_items: int = Field(default=100, ge=1, le=1000, description="a longer list fails the step")
    concurrency: int = Field(default=4, ge=1, le=16)

    @field_validator("uses")
    @classmethod
    def _check_uses(cls, uses: str) -> str:
        if uses.startswith("pkg:control/"):
            raise ValueError("a loop runs no control kind")
        return uses


class ControlMap(StepKind[ControlMapConfig]):
    """Makes a JSON array of `{"index", "digest", "media_type", "size"}`, with `json` where it is small."""

    uses: ClassVar[str] = "pkg:control/map@1.0.0"
    summary: ClassVar[str] = "Run one kind for each item of a list, bounded."
    config = ControlMapConfig
    media_type: ClassVar[str] = "application/json"
    asset: ClassVar[bool] = False

    def estimate(self, config: ControlMapConfig) -> Estimate:
        return Estimate(cpu_seconds=0.01)

    async def run(
        self, context: StepContext, config: ControlMapConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        raise StepError(
            "a loop cannot run by itself",
            place=f"step {context.step}",
            remedy="run it as a step of a flow: the engine runs its iterations",
            code="control-map-alone",
        )
