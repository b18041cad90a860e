"""A step kind that leaves a line outside the project each time it runs to its end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult


class WitnessConfig(StepConfig):
    file: str
    seconds: float = 0.05


class Witness(StepKind[WitnessConfig]):
    uses = "pkg:test/witness@1.0.0"
    summary = "Says in a file that it ran."
    config = WitnessConfig
    media_type = "application/json"

    async def run(
        self, context: StepContext, config: WitnessConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        await asyncio.sleep(config.seconds)
        line = f"{context.run_id} {context.step} {os.getpid()}\n".encode()
        file = os.open(config.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
        seen = {name: artifact.digest for name, artifact in sorted(inputs.items())}
        context.log(f"{context.step} of {context.run_id}")
        body = {"step": context.step, "run": context.run_id, "branch": context.git.get("branch"), "in": seen}
        return StepResult(data=json.dumps(body).encode(), media_type="application/json", preview="ok")
