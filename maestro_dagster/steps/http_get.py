"""`http/get`: fetch an address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.http_request import HttpConfig, http_effects, send
from maestro_dagster.steps.interface import Effects, Estimate, StepContext, StepKind, StepResult


class HttpGetConfig(HttpConfig):
    pass


class HttpGet(StepKind[HttpGetConfig]):
    uses: ClassVar[str] = "pkg:http/get@1.0.0"
    summary: ClassVar[str] = "Fetch an http or https address."
    config = HttpGetConfig

    def effects(self, config: HttpGetConfig) -> Effects:
        return http_effects(config)

    def estimate(self, config: HttpGetConfig) -> Estimate:
        return Estimate(cpu_seconds=0.2, bytes_out=min(config.max_bytes, 1024**2))

    async def run(
        self, context: StepContext, config: HttpGetConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        return await send(context, config, "GET", dict(config.headers))
