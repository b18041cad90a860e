"""`control/rate`: wait until a rate that all runs share allows one more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult


class ControlRateConfig(StepConfig):
    key: str = Field(pattern=r"^[\w./:-]{1,200}$", description="what is limited; shared by all flows")
    limit: int = Field(ge=1, le=1_000_000, description="how many in one window")
    per_seconds: float = Field(gt=0, le=86400, description="length of the window in seconds")


class ControlRate(StepKind[ControlRateConfig]):
    uses: ClassVar[str] = "pkg:control/rate@1.0.0"
    summary: ClassVar[str] = "Wait until a shared rate allows one more."
    config = ControlRateConfig
    media_type: ClassVar[str] = "application/json"
    asset: ClassVar[bool] = False

    def estimate(self, config: ControlRateConfig) -> Estimate:
        return Estimate(cpu_seconds=0.01)

    async def run(
        self, context: StepContext, config: ControlRateConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        if context.acquire_rate is None:
            raise StepError(
                "rates need the journal",
                place=f"step {context.step}",
                remedy="run it as a step of a flow",
                code="control-rate-alone",
            )
        waited = 0.0
        while (wait := context.acquire_rate(config.key, config.limit, config.per_seconds)) > 0:
            await asyncio.sleep(wait)
            waited += wait
        return StepResult(
            data=json.dumps({"key": config.key}).encode(),
            media_type=self.media_type,
            facts={"key": config.key, "waited_seconds": round(waited, 3)},
        )
