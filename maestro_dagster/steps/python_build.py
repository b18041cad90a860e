"""`python/build`: wheel and sdist of a tree, in the cage, by a back end pinned by hash."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.evidence.interface import BuiltArtifact
from maestro_dagster.steps import build_inside
from maestro_dagster.steps.foreign_code import (
    ForeignCall,
    export_tree,
    log_output,
    make_folder,
    require_success,
    run_foreign,
    tail,
)
from maestro_dagster.steps.git_checkout import CARD
from maestro_dagster.steps.input import read_only_input
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.wheel_folder import open_wheel_folder, read_used_wheels
from maestro_dagster.steps.wheel_lock import Pin, read_shipped_lock, select_pins

LOCK = "build-backends.lock"
EARLIEST = 315532800  # 1980-01-01, the first day that a wheel's archive can name
_LEGACY = "setuptools.build_meta:__legacy__"


class PythonBuildConfig(StepConfig):
    source: str | None = Field(
        default=None, title="Source", description="the need that gives the tree; default: the only one"
    )
    folder: str = Field(
        default=".", title="Folder", description="where pyproject.toml is, below the tree's top"
    )
    time_limit: float = Field(default=600, gt=0, le=86400, title="Time limit", description="seconds")
    memory_mb: int = Field(default=4096, ge=64, le=262144, title="Memory limit", description="MiB")


@dataclass(frozen=True, slots=True)
class BuildSystem:
    """The table `build-system` of pyproject.toml (PEP 518)."""

    backend: str
    requires: tuple[str, ...]
    path: tuple[str, ...]


class PythonBuild(StepKind[PythonBuildConfig]):
    uses: ClassVar[str] = "pkg:python/build@1.0.0"
    summary: ClassVar[str] = "Build a wheel and an sdist reproducibly, in the cage."
    config = PythonBuildConfig
    inputs: ClassVar[str] = "any"

    def effects(self, config: PythonBuildConfig) -> Effects:
        return Effects(runs_foreign_code=True)

    def estimate(self, config: PythonBuildConfig) -> Estimate:
        return Estimate(cpu_seconds=min(config.time_limit, 30.0), bytes_out=1024**2)

    async def run(
        self, context: StepContext, config: PythonBuildConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        _, artifact = read_only_input(inputs, context.step, config.source)
        tree = await export_tree(context, artifact, "tree")
        card = _take_card(tree)
        system = _read_build_system(tree, config.folder, place)
        pins = choose_backend(system, read_shipped_lock(context.project.root, LOCK), place)
        tools = await open_wheel_folder(context, pins)
        out = make_folder(context, "dist")
        epoch = max(EARLIEST, int(card.get("source_date_epoch") or context.git.get("timestamp") or EARLIEST))
        call = _call(context, config, system, tree, tools, out, epoch)
        result = await run_foreign(context, call)
        if result.returncode == build_inside.UNMET:
            raise _not_pinned(", ".join(tail(result.stderr).split()), place)
        require_success(result, context, what=f"the build by {system.backend}", code="build-failed")
        log_output(context, result)
        dist = await asyncio.to_thread(context.store.put_tree, out)
        files = {entry.path: entry.digest for entry in context.store.read_tree(dist.digest)}
        name, version = _check_files(sorted(files), place)
        sources = _sources(card, artifact, pins, tools)
        return StepResult(
            artifact=dist,
            media_type=dist.media_type,
            facts={
                "name": name,
                "version": version,
                "files": files,
                "backend": system.backend,
                "backend_packages": {pin.name: pin.version for pin in pins},
                "source_date_epoch": epoch,
                "commit": card.get("commit", ""),
            },
            preview="\n".join(f"- `{path}` {digest}" for path, digest in sorted(files.items())),
            built=tuple(
                BuiltArtifact(name=path, digest=digest, step=context.step, dependencies=sources)
                for path, digest in sorted(files.items())
            ),
            isolation=result.isolation,
        )


def _take_card(tree: Path) -> dict[str, Any]:
    """What git/checkout wrote; it is ours, so it must not end up in the sdist."""
    path = tree / CARD
    if not path.is_file():
        return {}
    card: dict[str, Any] = json.loads(path.read_bytes())
    path.unlink()
    return card


def _read_build_system(tree: Path, folder: str, place: str) -> BuildSystem:
    path = tree / folder / "pyproject.toml"
    if ".." in Path(folder).parts or not path.resolve().is_relative_to(tree.resolve()):
        raise StepError(f"{folder!r} leaves the tree", place=place, code="file-path")
    if not path.is_file():
        if (path.parent / "setup.py").is_file():
            return BuildSystem(_LEGACY, ("setuptools",), ())
        raise StepError(
            f"there is no pyproject.toml in {folder!r}",
            place=place,
            remedy="add one with a [build-system] table, or set `folder`",
            code="build-no-project",
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("build-system", {})
        backend = table.get("build-backend", _LEGACY)
        requires, paths = table.get("requires", ["setuptools"]), table.get("backend-path", [])
        if not isinstance(backend, str) or not all(isinstance(item, str) for item in (*requires, *paths)):
            raise TypeError("build-system holds something that is no text")  # noqa: TRY301  one way out
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StepError(
            f"pyproject.toml cannot be read: {error}",
            place=place,
            remedy="mend it",
            code="build-project-invalid",
        ) from error
    return BuildSystem(backend, tuple(requires), tuple(paths))


def choose_backend(system: BuildSystem, lock: Sequence[Pin], place: str) -> tuple[Pin, ...]:
    """The pins for `requires`, and what they need. Raises StepError (`backend-not-pinned`)."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    by_name = {pin.name: pin for pin in lock}
    wanted: list[str] = []
    for text in system.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise StepError(
                f"{text!r} is no requirement",
                place=place,
                remedy="mend pyproject.toml",
                code="build-project-invalid",
            ) from error
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        pin = by_name.get(canonicalize_name(requirement.name))
        if (
            pin is None
            or requirement.url
            or not requirement.specifier.contains(pin.version, prereleases=True)
        ):
            raise _not_pinned(text, place)
        wanted.append(pin.name)
    return select_pins(lock, wanted)


def _not_pinned(text: str, place: str) -> StepError:
    return StepError(
        f"the build needs {text}, which no lock pins by hash",
        place=place,
        remedy=f"add it to resources/{LOCK} with its hashes, or use a back end that is there",
        code="backend-not-pinned",
    )


def _call(
    context: StepContext,
    config: PythonBuildConfig,
    system: BuildSystem,
    tree: Path,
    tools: Path,
    out: Path,
    epoch: int,
) -> ForeignCall:
    source = f"/scratch/tree/{config.folder}".removesuffix("/.")
    return ForeignCall(
        argv=(
            "python3",
            "-B",
            "/tools/build/inside.py",
            system.backend,
            source,
            "/dist",
            "/scratch",
            *system.path,
        ),
        cwd="/scratch",
        env={"PYTHONPATH": "/tools/site", "PYTHONNOUSERSITE": "1", "SOURCE_DATE_EPOCH": str(epoch)},
        read_only={"/tools/site": tools, "/tools/build/inside.py": Path(build_inside.__file__)},
        writable={"/scratch": make_folder(context, "work"), "/scratch/tree": tree, "/dist": out},
        time_limit=config.time_limit,
        memory_mb=config.memory_mb,
    )


def _check_files(names: list[str], place: str) -> tuple[str, str]:
    """Exactly one sdist and one wheel of the same project and version, by their own names (PEP 427, 625)."""
    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        parse_sdist_filename,
        parse_wheel_filename,
    )

    try:
        wheels = [parse_wheel_filename(name) for name in names if name.endswith(".whl")]
        sdists = [parse_sdist_filename(name) for name in names if name.endswith(".tar.gz")]
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise _odd_files(str(error), place) from error
    if len(names) != 2 or len(wheels) != 1 or len(sdists) != 1:  # noqa: PLR2004  a wheel and an sdist
        raise _odd_files(f"it made {', '.join(names) or 'nothing'}", place)
    (wheel,), (sdist,) = wheels, sdists
    if wheel[:2] != sdist:
        raise _odd_files("wheel and sdist are of different versions", place)
    return str(sdist[0]), str(sdist[1])


def _odd_files(fact: str, place: str) -> StepError:
    return StepError(
        f"the build did not make one wheel and one sdist: {fact[:500]}",
        place=place,
        remedy="check the project's metadata and its back end",
        code="build-files",
    )


def _sources(
    card: Mapping[str, Any], tree: Artifact, pins: Sequence[Pin], tools: Path
) -> tuple[tuple[str, str], ...]:
    found = []
    if card.get("commit"):
        ref = card.get("ref") or card["commit"]
        found.append((f"git+{card['repository']}@{ref}", f"gitCommit:{card['commit']}"))
    found.append(("urn:maestro:tree", tree.digest))
    used = read_used_wheels(tools)
    found += [(f"pkg:pypi/{pin.name}@{pin.version}", used[pin.name]) for pin in pins if pin.name in used]
    return tuple(found)
