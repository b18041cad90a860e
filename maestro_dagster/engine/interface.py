"""What the faces, the workers and the Dagster rooms see of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.manifest.model import Flow

RunStatus = Literal["requested", "running", "succeeded", "failed", "denied", "cancelled"]
StepStatus = Literal["waiting", "running", "done", "failed", "skipped", "cancelled", "reused"]
Cause = Literal["manual", "push", "poll", "event", "ui", "retry", "schedule", "demo"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A wish for a run, durable and deduplicated on `run_id`.

    `partition` is `<repository>@<ref>` for runs from a repository's event, else None. `reuse_from` names the
    run whose finished steps are taken over (status `reused`); `selection` limits the steps that run.
    `actor` is who asked, in the clear: policy and the journal of runs see it; usage and evidence have
    the surrogate that `Services.subject_of` gives.
    """

    run_id: str
    flow: Flow
    params: Mapping[str, Any] = field(default_factory=dict)
    git: Mapping[str, str] = field(default_factory=dict)
    partition: str | None = None
    cause: Cause = "manual"
    actor: str = ""
    budget_nano: int | None = None
    region: str | None = None  # of the request; policy compares it with the flow's
    reuse_from: str | None = None
    selection: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One step's end, as acknowledged by the journal. `fresh` is False when it was read back on resume."""

    step: str
    uses: str
    status: StepStatus
    attempts: int
    artifact: Artifact | None
    duration_ms: int
    started_at: float | None
    finished_at: float
    cost_nano: int | None
    tokens: int
    facts: Mapping[str, Any]
    preview: str
    error: Mapping[str, str] | None
    asset: bool
    fresh: bool


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it may be shown, without secrets. Times are seconds since the epoch."""

    run_id: str
    flow: str
    flow_version: str
    flow_digest: str
    status: RunStatus
    cause: Cause
    partition: str | None
    git: Mapping[str, str]
    requested_at: float
    started_at: float | None
    finished_at: float | None
    steps: tuple[StepOutcome, ...]
    evidence: str | None  # path of the bundle
    decision: Mapping[str, Any] | None
    error: Mapping[str, str] | None
