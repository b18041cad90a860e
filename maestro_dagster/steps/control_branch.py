"""`control/branch`: take the steps of the first case that equals a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult


class BranchCase(StepConfig):
    equals: Any = Field(description="a JSON value")
    steps: tuple[str, ...] = Field(description="ids of the steps to take; they need this step")


class ControlBranchConfig(StepConfig):
    value: Any = Field(description="usually an expression")
    cases: tuple[BranchCase, ...] = Field(min_length=1, max_length=1000)
    default: tuple[str, ...] = Field(default=(), description="ids of the steps to take when no case fits")


class ControlBranch(StepKind[ControlBranchConfig]):
    """Steps of the other cases are skipped, and with them what needs them and does not say `join: any`."""

    uses: ClassVar[str] = "pkg:control/branch@1.0.0"
    summary: ClassVar[str] = "Choose which steps come next."
    config = ControlBranchConfig
    media_type: ClassVar[str] = "application/json"
    asset: ClassVar[bool] = False

    def estimate(self, config: ControlBranchConfig) -> Estimate:
        return Estimate(cpu_seconds=0.01)

    async def run(
        self, context: StepContext, config: ControlBranchConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        wanted = _canonical(config.value)
        chosen = next(
            (case.steps for case in config.cases if _canonical(case.equals) == wanted), config.default
        )
        facts = {"value": config.value, "chosen": list(chosen)}
        return StepResult(
            data=json.dumps(facts, sort_keys=True).encode(),
            media_type=self.media_type,
            facts={"chosen": list(chosen)},
            chosen=chosen,
        )


def _canonical(value: Any) -> str:
    """Equal texts for equal JSON values: 1 is 1.0 there, but never true (RFC 8259, section 6)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    return json.dumps(value)
