"""A step's context made of real parts where a data step uses them: the store, the clock, files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.steps.interface import Network, ProjectView, StepContext, StepKind, StepResult


@dataclass
class CountingMeter:
    cpu: float = 0.0
    memory: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    lines: list[str] = field(default_factory=list)

    def add_cpu(self, seconds: float) -> None:
        self.cpu += seconds

    def add_memory(self, byte_seconds: float) -> None:
        self.memory += byte_seconds

    def add_network(self, bytes_in: int, bytes_out: int) -> None:
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class Workbench:
    """Runs one step kind. `put` stores an input; `run` gives the step's result."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.root.mkdir()
        self.home = self.root / ".maestro"
        self.store = open_store(self.home / "artifacts")
        self.meter = CountingMeter()
        self.network = Network()
        self.secrets: dict[str, str] = {}
        self.acquire_rate: Callable[[str, int, float], float] | None = None
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def put(self, data: bytes | str, media_type: str) -> Artifact:
        return self.store.put_bytes(data.encode() if isinstance(data, str) else data, media_type)

    def context(self) -> StepContext:
        unused = cast("Any", None)
        return StepContext(
            run_id="r-test",
            flow="test",
            flow_version="1.0.0",
            step="here",
            iteration=-1,
            attempt=1,
            idempotency_key="key-1",
            scratch=self.scratch,
            store=self.store,
            cage=unused,
            models=unused,
            ledger=unused,
            meter=self.meter,
            network=self.network,
            project=ProjectView(self.root, self.home / "cache", self.root / "advisories"),
            git={},
            isolation="namespaces",
            started_at=time.time(),
            log=self.meter.lines.append,
            secret=self.secrets.__getitem__,
            acquire_rate=self.acquire_rate,
        )

    async def run(self, kind: StepKind[Any], config: dict[str, Any], **inputs: Artifact) -> StepResult:
        return await kind.run(self.context(), kind.config.model_validate(config), inputs)

    def content(self, result: StepResult) -> bytes:
        if result.artifact is not None:
            return self.store.read(result.artifact.digest)
        return result.data if result.data is not None else cast("Path", result.path).read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)
