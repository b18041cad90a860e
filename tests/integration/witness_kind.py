"""A step kind that leaves a line outside the project each time it runs to its end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult


def leave_line(path: str, run_id: str, step: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{run_id} {step} {os.getpid()}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


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
        leave_line(config.file, context.run_id, context.step)
        seen = {name: artifact.digest for name, artifact in sorted(inputs.items())}
        context.log(f"{context.step} of {context.run_id}")
        body = {"step": context.step, "run": context.run_id, "branch": context.git.get("branch"), "in": seen}
        return StepResult(data=json.dumps(body).encode(), media_type="application/json", preview="ok")
