"""Kinds that run foreign code are tested with a real store, a real cage and real repositories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.sandbox.cage import LinuxCage, open_cage
from maestro_dagster.steps.interface import Network, ProjectView, StepContext, StepKind, StepResult


@dataclass
class CountingMeter:
    cpu: float = 0.0
    memory: float = 0.0
    network: int = 0

    def add_cpu(self, seconds: float) -> None:
        self.cpu += seconds

    def add_memory(self, byte_seconds: float) -> None:
        self.memory += byte_seconds

    def add_network(self, bytes_in: int, bytes_out: int) -> None:
        self.network += bytes_in + bytes_out


@dataclass
class Bench:
    """A project on disk and a way to run one kind in it as the engine would."""

    root: Path
    store: ArtifactStore
    cage: LinuxCage
    cache: Path
    git: dict[str, str] = field(default_factory=dict)
    network: Network = field(default_factory=Network)
    isolation: str = "namespaces"
    signer: Any = None
    lines: list[str] = field(default_factory=list)
    meter: CountingMeter = field(default_factory=CountingMeter)
    runs: int = 0
    max_age_days: int | None = None

    def context(self) -> StepContext:
        self.runs += 1
        scratch = self.root / ".maestro" / "scratch" / str(self.runs)
        scratch.mkdir(parents=True)
        return StepContext(
            run_id="run-1",
            flow="flow",
            flow_version="1.0.0",
            step="it",
            iteration=-1,
            attempt=1,
            idempotency_key=f"key-{self.runs}",
            scratch=scratch,
            store=self.store,
            cage=self.cage,
            models=cast("Any", None),
            ledger=cast("Any", None),
            meter=self.meter,
            network=self.network,
            project=ProjectView(self.root, self.cache, self.root / "advisories", self.max_age_days),
            git=self.git,
            isolation=self.isolation,
            started_at=1_700_000_000.0,
            log=self.lines.append,
            secret=lambda name: "",
            signer=self.signer,
        )

    async def run(
        self,
        kind: type[StepKind[Any]],
        config: Mapping[str, Any],
        inputs: Mapping[str, Artifact] | None = None,
    ) -> StepResult:
        """The result, with `artifact` always set, as the engine stores it."""
        result = await kind().run(self.context(), kind.config.model_validate(config), inputs or {})
        if result.data is not None:
            return replace(result, artifact=self.store.put_bytes(result.data, result.media_type))
        if result.path is not None:
            put = self.store.put_tree(result.path) if result.path.is_dir() else None
            return replace(result, artifact=put or self.store.put_file(result.path, result.media_type))
        return result

    def tree(self, files: Mapping[str, str | bytes]) -> Artifact:
        self.runs += 1
        folder = self.root / ".maestro" / f"made-{self.runs}"
        write_files(folder, files)
        return self.store.put_tree(folder)

    def files(self, artifact: Artifact) -> dict[str, bytes]:
        return {entry.path: self.store.read(entry.digest) for entry in self.store.read_tree(artifact.digest)}


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="session")
def shared_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetched wheels: kept from one session of tests to the next where pytest keeps things at all."""
    if pytestconfig.cache is None:
        return tmp_path_factory.mktemp("state") / "cache"
    return pytestconfig.cache.mkdir("maestro-wheels") / "cache"


@pytest.fixture(scope="session")
def real_cage() -> LinuxCage:
    cage = open_cage()
    refusal = cage.refusal()
    if refusal:
        pytest.skip(f"this kernel builds no cage: {refusal}")
    return cage


@pytest.fixture
def bench(tmp_path: Path, real_cage: LinuxCage, shared_cache: Path) -> Bench:
    root = tmp_path / "project"
    (root / ".maestro").mkdir(parents=True)
    return Bench(root, open_store(root / ".maestro" / "artifacts"), real_cage, shared_cache)


Git = Callable[..., str]


@pytest.fixture
def make_repository(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], tuple[Path, Git]]:
    def make(files: Mapping[str, str | bytes], name: str = "repository") -> tuple[Path, Git]:
        folder = tmp_path / name
        folder.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "ada@example.org" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_DATE": "2024-01-02T03:04:05Z" for who in ("AUTHOR", "COMMITTER")},
        }

        def git(*arguments: str) -> str:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
            )
            return done.stdout.strip()

        git("init", "-q", "-b", "main")
        write_files(folder, files)
        git("add", "-A", "-f")
        git("commit", "-q", "--allow-empty", "-m", "first\n\nbody of it")
        return folder, git

    return make
