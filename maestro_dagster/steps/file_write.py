"""`file/write`: an artifact, or a text, into a file of the project."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.file_read import guess_media_type
from maestro_dagster.steps.input import read_only_input
from maestro_dagster.steps.interface import Effects, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.project_path import split_path, write_file


class FileWriteConfig(StepConfig):
    path: str = Field(description="path below the project's root; folders are made")
    content: str | None = Field(default=None, description="text to write; default: the input")
    input: str | None = Field(default=None, description="which input, when there is more than one")
    overwrite: bool = True


class FileWrite(StepKind[FileWriteConfig]):
    """Writing the same content again changes nothing, so a repeated attempt is safe."""

    uses: ClassVar[str] = "pkg:file/write@1.0.0"
    summary: ClassVar[str] = "Write a text or an artifact into a file of the project."
    config = FileWriteConfig

    def effects(self, config: FileWriteConfig) -> Effects:
        return Effects(paths=(config.path,))

    async def run(
        self, context: StepContext, config: FileWriteConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        root, state = context.project.root, context.project.cache.parent
        parts = split_path(config.path, place=place, state=state, root=root, write=True)
        artifact = None
        if config.content is not None:
            data, media_type = config.content.encode(), guess_media_type(parts[-1])
        else:
            name, artifact = read_only_input(inputs, context.step, config.input)
            if artifact.media_type == TREE_MEDIA_TYPE:
                raise StepError(
                    f"the input {name} is a folder",
                    place=place,
                    remedy="write a file, or publish the folder with publish/directory",
                    code="file-kind",
                )
            data, media_type = context.store.read(artifact.digest), artifact.media_type
        await asyncio.to_thread(write_file, root, parts, data, place=place, overwrite=config.overwrite)
        facts = {"path": "/".join(parts), "bytes": len(data)}
        if artifact is not None:
            return StepResult(artifact=artifact, media_type=media_type, facts=facts)
        return StepResult(data=data, media_type=media_type, facts=facts)
