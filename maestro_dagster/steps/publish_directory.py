"""`publish/directory`: a release into a static package index in a folder of the project."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.project_folder import locked, open_project_folder
from maestro_dagster.steps.sign_artifact import ENDING
from maestro_dagster.steps.simple_index import (
    IndexedFile,
    Release,
    read_release,
    sync_folder,
    write_index,
    write_release,
)
from maestro_dagster.steps.wheel_metadata import read_wheel_metadata

SBOM = "sbom.cdx.json"
NOTES = "NOTES.md"


class PublishDirectoryConfig(StepConfig):
    directory: str = Field(
        default="published", title="Folder", description="of the index, below the project's root"
    )
    require_signatures: bool = Field(
        default=True, title="Require signatures", description="refuse files that no input holds a bundle for"
    )


@dataclass
class Parts:
    """What the inputs hold, by file name: distributions, and what lies beside them."""

    core: dict[str, Artifact] = field(default_factory=dict)
    beside: dict[str, Artifact] = field(default_factory=dict)


class PublishDirectory(StepKind[PublishDirectoryConfig]):
    uses: ClassVar[str] = "pkg:publish/directory@1.0.0"
    summary: ClassVar[str] = "Publish wheel and sdist in a static index, as a whole or not at all."
    config = PublishDirectoryConfig
    media_type: ClassVar[str] = "application/json"

    def effects(self, config: PublishDirectoryConfig) -> Effects:
        return Effects(paths=(config.directory,))

    async def run(
        self, context: StepContext, config: PublishDirectoryConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        parts = await asyncio.to_thread(collect_parts, context, inputs)
        _check_signed(parts, place, required=config.require_signatures)
        release = await asyncio.to_thread(_describe, context, parts)
        root = await asyncio.to_thread(open_project_folder, context, config.directory)
        async with locked(root, place):
            fresh = await asyncio.to_thread(publish_release, context, root, release, parts)
        report = {
            "name": release.name,
            "version": release.version,
            "directory": config.directory,
            "files": release.core(),
            "fresh": fresh,
        }
        state = "published" if fresh else "was published already, with the same bytes"
        return StepResult(
            data=json.dumps(report, sort_keys=True).encode(),
            media_type=self.media_type,
            facts=report,
            preview=f"**{release.name} {release.version}** {state} in `{config.directory}`",
        )

    def estimate(self, config: PublishDirectoryConfig) -> Estimate:
        return Estimate(cpu_seconds=0.1, bytes_out=1024**2)


def collect_parts(context: StepContext, inputs: Mapping[str, Artifact]) -> Parts:
    parts = Parts()
    for artifact in inputs.values():
        if artifact.media_type != TREE_MEDIA_TYPE:
            if "cyclonedx" in artifact.media_type:
                parts.beside[SBOM] = artifact
            elif artifact.media_type.partition(";")[0] == "text/markdown":
                parts.beside[NOTES] = artifact
            continue
        for entry in context.store.read_tree(artifact.digest):
            if "/" in entry.path:
                continue
            stored = Artifact(entry.digest, "application/octet-stream", entry.size)
            if entry.path.endswith((".whl", ".tar.gz")):
                parts.core[entry.path] = stored
            elif entry.path.endswith(ENDING):
                parts.beside[entry.path] = stored
    return parts


def _check_signed(parts: Parts, place: str, *, required: bool) -> None:
    if not any(name.endswith(".whl") for name in parts.core):
        raise StepError(
            "there is no wheel in the inputs",
            place=place,
            remedy="need the step that builds",
            code="publish-nothing",
        )
    unsigned = sorted(name for name in parts.core if f"{name}{ENDING}" not in parts.beside)
    if required and unsigned:
        raise StepError(
            f"{', '.join(unsigned)} is not signed",
            place=place,
            remedy="need a sign/artifact step, or set require_signatures to false",
            code="publish-unsigned",
        )


def _describe(context: StepContext, parts: Parts) -> Release:
    place = f"step {context.step}"
    found = {
        (wheel.name, wheel.version, wheel.requires_python)
        for name, artifact in parts.core.items()
        if name.endswith(".whl")
        for wheel in [read_wheel_metadata(name, context.store.read(artifact.digest), place)]
    }
    if len(found) != 1:
        raise StepError("the wheels are of different releases", place=place, code="publish-ambiguous")
    ((name, version, requires_python),) = found
    files = [
        IndexedFile(file, artifact.digest.removeprefix("sha256:"), artifact.size, core=core)
        for core, group in ((True, parts.core), (False, parts.beside))
        for file, artifact in sorted(group.items())
    ]
    return Release(name, version, requires_python, tuple(files))


def publish_release(context: StepContext, root: Path, release: Release, parts: Parts) -> bool:
    """False when exactly these distributions are there already. Raises StepError (`publish-conflict`).

    The release appears by one rename; the index, which names it, is written after. A run that dies in
    between is completed by the next one: the index is made from what is there.
    """
    target = root / "files" / release.name / release.version
    for left in target.parent.glob(".part-*"):  # by a publisher that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    fresh = not target.exists()
    if fresh:
        part = root / "files" / release.name / f".part-{secrets.token_hex(6)}"
        part.mkdir(parents=True)
        try:
            for name, artifact in {**parts.beside, **parts.core}.items():
                context.store.export(artifact, part / name)
            write_release(part, release)
            for path in part.iterdir():
                _sync(path)
            sync_folder(part)
            part.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    elif _read_known(target) != release.core():
        raise StepError(
            f"{release.name} {release.version} is published with other bytes",
            place=f"step {context.step}",
            remedy="raise the version: what is published never changes",
            code="publish-conflict",
        )
    (root / "simple").mkdir(exist_ok=True)
    write_index(root)
    return fresh


def _read_known(target: Path) -> dict[str, str]:
    try:
        return read_release(target).core()
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # somebody else's folder: it equals nothing that we would publish


def _sync(path: Path) -> None:
    import os

    with path.open("rb") as file:
        os.fsync(file.fileno())
