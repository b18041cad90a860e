"""`deploy/directory`: a published wheel into a fresh virtual environment, checked, then switched to."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.sandbox.layout import interpreter
from maestro_dagster.steps.foreign_code import ForeignCall, log_output, run_foreign, tail
from maestro_dagster.steps.input import read_json, read_only_input
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.project_folder import locked, open_project_folder
from maestro_dagster.steps.simple_index import Release, list_releases, sync_folder
from maestro_dagster.steps.wheel_folder import find_pip
from maestro_dagster.telemetry.span import open_call

INSTALL_SECONDS = 300
READY = ".maestro-ready"
_IMPORT_ALL = (
    "import importlib, importlib.metadata, sys\n"
    "files = importlib.metadata.distribution(sys.argv[1]).files or ()\n"
    "tops = {f.parts[0].removesuffix('.py') for f in files if f.suffix == '.py'}\n"
    "[importlib.import_module(top) for top in sorted(tops) if top.isidentifier()]\n"
)


class DeployDirectoryConfig(StepConfig):
    source: str | None = Field(
        default=None, title="Source", description="the publish/directory step; default: the only need"
    )
    directory: str = Field(
        default="deployed", title="Folder", description="of the releases, below the project's root"
    )
    check: tuple[str, ...] = Field(
        default=(),
        title="Health check",
        description="command that must succeed; {venv} is the environment. Default: import the package",
        examples=[["{venv}/bin/shop", "--version"]],
    )
    keep: int = Field(default=3, ge=1, le=100, title="Releases kept", description="besides the current one")
    time_limit: float = Field(
        default=60, gt=0, le=3600, title="Time limit of the check", description="seconds"
    )


@dataclass(frozen=True, slots=True)
class Target:
    """Where one release goes: `<folder>/releases/<name>-<version>-<digest>`; `<folder>/current` names it."""

    folder: Path
    release: str

    @property
    def path(self) -> Path:
        return self.folder / "releases" / self.release

    @property
    def current(self) -> Path:
        return self.folder / "current"


class DeployDirectory(StepKind[DeployDirectoryConfig]):
    uses: ClassVar[str] = "pkg:deploy/directory@1.0.0"
    summary: ClassVar[str] = "Install a published wheel, check it, and switch to it; switch back if it fails."
    config = DeployDirectoryConfig
    media_type: ClassVar[str] = "application/json"

    def effects(self, config: DeployDirectoryConfig) -> Effects:
        return Effects(paths=(config.directory,), runs_foreign_code=True)

    def estimate(self, config: DeployDirectoryConfig) -> Estimate:
        return Estimate(cpu_seconds=3.0, bytes_out=1024**2)

    async def run(
        self, context: StepContext, config: DeployDirectoryConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        name, artifact = read_only_input(inputs, context.step, config.source)
        published = read_json(context.store, artifact, f"{place}, input {name}")
        index, release, wheel = await asyncio.to_thread(_find_release, context, published)
        folder = await asyncio.to_thread(open_project_folder, context, config.directory)
        target = Target(folder, f"{release.name}-{release.version}-{release.core()[wheel][:12]}")
        async with locked(folder, place):
            previous = _read_current(target)
            await _install(context, target, index, release)
            await _check(context, config, target.path, release, previous)
            await asyncio.to_thread(switch, target, target.release)
            try:
                await _check(context, config, target.current, release, previous)
            except BaseException:
                await asyncio.to_thread(switch, target, previous)
                raise
            removed = await asyncio.to_thread(prune, target, previous, config.keep)
        report = {
            "name": release.name,
            "version": release.version,
            "release": target.release,
            "previous": previous,
            "directory": config.directory,
            "removed": removed,
        }
        return StepResult(
            data=json.dumps(report, sort_keys=True).encode(),
            media_type=self.media_type,
            facts=report,
            preview=f"**{release.name} {release.version}** is current, before it {previous or 'nothing'}",
            isolation=context.isolation,
        )


def _find_release(context: StepContext, published: Any) -> tuple[Path, Release, str]:
    """The release that the publishing step speaks of, with every file of the index checked."""
    place = f"step {context.step}"
    try:
        index = open_project_folder(context, published["directory"])
        releases = list_releases(index)
        (release,) = (
            item
            for item in releases
            if (item.name, item.version) == (published["name"], published["version"])
            and item.core() == published["files"]
        )
        (wheel,) = (name for name in release.core() if name.endswith(".whl"))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise StepError(
            "the release is not in the index as it was published",
            place=place,
            remedy="need a publish/directory step; publish again if the folder was changed",
            code="deploy-missing",
        ) from error
    for item in releases:
        for name, digest in item.core().items():
            path = index / "files" / item.name / item.version / name
            with path.open("rb") as file:
                if path.is_symlink() or sha256(file.read()).hexdigest() != digest:
                    raise StepError(
                        f"{name} in the index was changed after it was published",
                        place=place,
                        remedy="remove that version from the index and publish it again",
                        code="deploy-digest",
                    )
    return index, release, wheel


async def _install(context: StepContext, target: Target, index: Path, release: Release) -> None:
    """Scripts of an environment hold its path, so it is made where it stays; a marker says it is whole."""
    if _is_ready(target):
        return
    await asyncio.to_thread(_clear, target)
    try:
        await _call(context, interpreter(), "-I", "-m", "venv", "--without-pip", str(target.path))
        wheels = [f"--find-links={folder}" for folder in sorted((index / "files").glob("*/*"))]
        await _call(
            context,
            *find_pip(),
            f"--python={target.path}/bin/python",
            "install",
            "--no-index",
            "--only-binary=:all:",
            "--no-compile",
            "--no-input",
            "--quiet",
            "--disable-pip-version-check",
            *wheels,
            f"{release.name}=={release.version}",
        )
        _mark_ready(target)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, target.path, ignore_errors=True)
        raise


async def _call(context: StepContext, *argv: str) -> None:
    with open_call(f"exec {Path(argv[0]).name}", process__executable__name=Path(argv[0]).name):
        await _run(context, argv)


async def _run(context: StepContext, argv: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": os.defpath,
            "HOME": str(context.scratch),
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": os.devnull,
        },
        cwd=context.scratch,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        said = b"it took too long"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise StepError(
            f"the release cannot be installed: {tail(said)[-1500:]}",
            place=f"step {context.step}",
            remedy="publish what it depends on into the same index: deployment is offline",
            code="deploy-install",
        )


async def _check(
    context: StepContext, config: DeployDirectoryConfig, venv: Path, release: Release, previous: str | None
) -> None:
    """In the cage: the environment is read-only at its own path, nothing else of the project is there."""
    argv = tuple(part.replace("{venv}", str(venv)) for part in config.check)
    default = (f"{venv}/bin/python", "-I", "-c", _IMPORT_ALL, release.name)
    real = _resolve(venv)
    call = ForeignCall(
        argv=argv or default,
        read_only={str(path): real for path in {venv, real}},
        time_limit=config.time_limit,
    )
    try:
        result = await run_foreign(context, call)
        log_output(context, result)
        ending = (
            "" if result.returncode == 0 else f"ended with {result.returncode}: {tail(result.stderr)[-1000:]}"
        )
    except StepError as error:
        ending = error.fact
    if ending:
        raise StepError(
            f"the health check of {release.name} {release.version} {ending}",
            place=f"step {context.step}",
            remedy=f"{previous or 'nothing'} stays deployed; mend the release and publish a new version",
            code="deploy-unhealthy",
        )


def _resolve(venv: Path) -> Path:
    return venv.resolve()


def _read_current(target: Target) -> str | None:
    return target.current.readlink().name if target.current.is_symlink() else None


def _is_ready(target: Target) -> bool:
    return (target.path / READY).is_file()


def _mark_ready(target: Target) -> None:
    (target.path / READY).touch()
    sync_folder(target.path)


def _clear(target: Target) -> None:
    shutil.rmtree(target.path, ignore_errors=True)
    target.path.parent.mkdir(exist_ok=True)


def switch(target: Target, release: str | None) -> None:
    """One rename: whoever follows `current` gets the old release or the new one."""
    if release is None:
        target.current.unlink(missing_ok=True)
        return
    part = target.folder / ".current.part"
    part.unlink(missing_ok=True)
    part.symlink_to(Path("releases", release))
    part.replace(target.current)
    sync_folder(target.folder)


def prune(target: Target, previous: str | None, keep: int) -> list[str]:
    """Removes the oldest releases beyond `keep`; never the current one, nor the one before it."""
    others = [
        path
        for path in (target.folder / "releases").iterdir()
        if path.is_dir() and path.name not in {target.release, previous}
    ]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    doomed = others[max(0, keep - (previous is not None)) :]
    for path in doomed:
        shutil.rmtree(path)
    return sorted(path.name for path in doomed)
