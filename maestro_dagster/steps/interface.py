"""What a step kind is. One kind is one file; third parties add theirs by the entry point `maestro.steps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.evidence.interface import BuiltArtifact, Signer
from maestro_dagster.llm.interface import CallLedger, ModelHub, ModelRequest
from maestro_dagster.sandbox.interface import Cage


class StepConfig(BaseModel):
    """Base of every kind's `with:`. Values arrive with their expressions resolved."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


C = TypeVar("C", bound=StepConfig)


@dataclass(frozen=True, slots=True)
class Effects:
    """What a step may touch outside its inputs; policy sees it before the run."""

    egress: tuple[str, ...] = ()  # host or host:port
    secrets: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()  # below the project's root
    runs_foreign_code: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper estimate before a run, in seconds and bytes. `model_nano` None: the price is unknown."""

    cpu_seconds: float = 0.1
    bytes_out: int = 0
    model_nano: int | None = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    """Which addresses a step may reach. `allow_private` lists hosts or CIDRs that the project allows
    although they are private, loopback or metadata addresses.
    """

    egress: tuple[str, ...] = ()
    allow_private: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectView:
    """The operator's project as far as steps may use it. All paths are absolute."""

    root: Path
    cache: Path  # derived data that may be deleted at any time: fetched wheels, test environments
    advisories: Path  # folder of OSV records
    advisories_max_age_days: int | None = None


class Meter(Protocol):
    """Counts what the engine cannot see: CPU and memory of other processes and threads, bytes on the wire.

    CPU of the event loop, memory of this process and wall time are measured for you.
    """

    def add_cpu(self, seconds: float) -> None: ...

    def add_memory(self, byte_seconds: float) -> None: ...

    def add_network(self, bytes_in: int, bytes_out: int) -> None: ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """Everything a step may use. Nothing else: no globals, no environment, no home of the project.

    `git` has `sha`, `ref`, `branch`, `repository` (path or URL), `before`, `event_id`, `author`, `message`
    where the run came from a push, else it is empty. `scratch` is removed after the attempt.
    """

    run_id: str
    flow: str
    flow_version: str
    step: str
    iteration: int  # -1 outside control/map
    attempt: int
    idempotency_key: str
    scratch: Path
    store: ArtifactStore
    cage: Cage
    models: ModelHub
    ledger: CallLedger
    meter: Meter
    network: Network
    project: ProjectView
    git: Mapping[str, str]
    isolation: str
    started_at: float  # seconds since the epoch
    log: Callable[[str], None]
    secret: Callable[[str], str]
    signer: Signer | None = None
    region: str | None = None
    acquire_rate: Callable[[str, int, float], float] | None = None  # key, limit, seconds -> seconds to wait


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made. Exactly one of `data`, `path` (file or folder) or `artifact` is set, or none.

    `facts` is small JSON for the claim and the asset's metadata. `preview` is Markdown, at most 4 KiB.
    """

    data: bytes | None = None
    path: Path | None = None
    artifact: Artifact | None = None
    media_type: str = "application/octet-stream"
    facts: Mapping[str, Any] = field(default_factory=dict)
    preview: str = ""
    model: Mapping[str, Any] | None = None
    built: tuple[BuiltArtifact, ...] = ()
    sbom: Artifact | None = None  # a CycloneDX document that belongs into the evidence
    warnings: tuple[str, ...] = ()
    chosen: tuple[str, ...] | None = None  # of control/branch: the steps to take
    isolation: str | None = None


class StepKind(Generic[C]):
    """Base class of a kind. Subclass it, set the class variables, write `run`.

    Importing a kind's module must be cheap (no Dagster, litellm, polars, aiohttp): import what is
    heavy inside `run`. Raise StepError; `StepError.transient` when another attempt may succeed.
    """

    uses: ClassVar[str]  # "pkg:http/get@1.0.0"
    summary: ClassVar[str]  # one line, shown in catalogues
    config: type[C]
    inputs: ClassVar[str] = "any"  # "none", "one", "any": how many inputs it reads
    media_type: ClassVar[str] = "application/octet-stream"
    asset: ClassVar[bool] = True  # False: lives in the journal only (control steps)

    def effects(self, config: C) -> Effects:
        return Effects()

    def estimate(self, config: C) -> Estimate:
        return Estimate()

    def model_request(self, config: C, region: str | None = None) -> ModelRequest | None:
        """The model call that `run` is going to make, for kinds whose estimate has `model_nano=None`:
        admission asks the hub what it may cost at most, in the region of the request. None: unknown.
        """
        return None

    async def run(self, context: StepContext, config: C, inputs: Mapping[str, Artifact]) -> StepResult:
        raise NotImplementedError
