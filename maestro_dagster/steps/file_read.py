"""`file/read`: a file of the project as an artifact."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.project_path import read_file, split_path

_MORE_TYPES = {".yaml": "application/yaml", ".yml": "application/yaml", ".md": "text/markdown"}


class FileReadConfig(StepConfig):
    path: str = Field(description="path below the project's root")
    media_type: str | None = Field(default=None, description="default: from the name")
    max_bytes: int = Field(default=64 * 1024**2, ge=1, le=512 * 1024**2)


class FileRead(StepKind[FileReadConfig]):
    uses: ClassVar[str] = "pkg:file/read@1.0.0"
    summary: ClassVar[str] = "Read a file of the project."
    config = FileReadConfig
    inputs: ClassVar[str] = "any"

    def effects(self, config: FileReadConfig) -> Effects:
        return Effects(paths=(config.path,))

    def estimate(self, config: FileReadConfig) -> Estimate:
        return Estimate(bytes_out=min(config.max_bytes, 1024**2))

    async def run(
        self, context: StepContext, config: FileReadConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        root, state = context.project.root, context.project.cache.parent
        parts = split_path(config.path, place=place, state=state, root=root, write=False)
        data = await asyncio.to_thread(read_file, root, parts, place=place, limit=config.max_bytes)
        media_type = config.media_type or guess_media_type(parts[-1])
        preview = data[:2000].decode("utf-8", "replace") if media_type.startswith("text/") else ""
        return StepResult(data=data, media_type=media_type, facts={"path": "/".join(parts)}, preview=preview)


def guess_media_type(name: str) -> str:
    """From the name's ending; the table of Python plus a few types that it lacks."""
    for ending, media_type in _MORE_TYPES.items():
        if name.lower().endswith(ending):
            return media_type
    return mimetypes.guess_type(name, strict=True)[0] or "application/octet-stream"
