"""`shell/run`: one command, given as a list, in the cage."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.foreign_code import (
    ForeignCall,
    export_inputs,
    make_folder,
    read_made_file,
    require_success,
    run_foreign,
)
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult

OUTPUT_BYTES = 256 * 1024**2


class ShellRunConfig(StepConfig):
    argv: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        title="Command",
        description="program and arguments; no shell reads them. Inputs lie in /inputs/<step>",
        examples=[["sort", "/inputs/words"]],
    )
    env: dict[str, str] = Field(
        default_factory=dict, title="Environment", description="all variables besides PATH, HOME, LANG, TZ"
    )
    output: str | None = Field(
        default=None,
        title="Output",
        description="file or folder below /scratch to keep; default: what the command prints",
    )
    media_type: str = Field(
        default="application/octet-stream",
        title="Media type",
        description="of a single file, or of the print",
    )
    time_limit: float = Field(default=600, gt=0, le=86400, title="Time limit", description="seconds")
    memory_mb: int = Field(default=4096, ge=64, le=262144, title="Memory limit", description="MiB")

    @field_validator("argv")
    @classmethod
    def _no_nul(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in part for part in value) or not value[0]:
            raise ValueError("arguments hold no NUL, and the program is named")
        return value

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name.replace("_", "a").isalnum() or "\0" in text:
                raise ValueError(f"{name!r} cannot be set")
        return value


class ShellRun(StepKind[ShellRunConfig]):
    uses: ClassVar[str] = "pkg:shell/run@1.0.0"
    summary: ClassVar[str] = "Run a command in the cage."
    config = ShellRunConfig

    def effects(self, config: ShellRunConfig) -> Effects:
        return Effects(runs_foreign_code=True)

    def estimate(self, config: ShellRunConfig) -> Estimate:
        return Estimate(cpu_seconds=min(config.time_limit, 60.0), bytes_out=1024**2)

    async def run(
        self, context: StepContext, config: ShellRunConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        read_only = await export_inputs(context, inputs)
        work = make_folder(context, "work")
        result = await run_foreign(
            context,
            ForeignCall(
                argv=config.argv,
                env=config.env,
                read_only=read_only,
                writable={"/scratch": work},
                egress=context.network.egress,
                time_limit=config.time_limit,
                memory_mb=config.memory_mb,
            ),
        )
        require_success(result, context, what=config.argv[0], code="command-failed")
        facts = {"returncode": 0, "truncated": result.truncated}
        if config.output is None:
            if result.truncated:
                raise StepError(
                    "the command printed more than is kept",
                    place=f"step {context.step}",
                    remedy="let it write a file and name that as `output`",
                    code="output-limit",
                )
            preview = "```\n" + result.stdout[:2000].decode("utf-8", "replace") + "\n```"
            return StepResult(
                data=result.stdout,
                media_type=config.media_type,
                facts=facts,
                preview=preview,
                isolation=result.isolation,
            )
        path = config.output.removeprefix("/scratch/")
        try:
            data = await asyncio.to_thread(read_made_file, work, path, context, OUTPUT_BYTES)
        except StepError as error:
            if error.error_code != "file-kind":
                raise
        else:
            return StepResult(
                data=data, media_type=config.media_type, facts=facts, isolation=result.isolation
            )
        # A folder: every part of its path is checked for links, put_tree refuses those that leave it.
        folder = work
        for part in path.split("/"):
            folder /= part
            if folder.is_symlink() or not folder.is_dir():
                raise StepError(
                    f"{path!r} is neither a file nor a folder", place=f"step {context.step}", code="file-kind"
                )
        tree = await asyncio.to_thread(context.store.put_tree, folder)
        return StepResult(artifact=tree, media_type=tree.media_type, facts=facts, isolation=result.isolation)
