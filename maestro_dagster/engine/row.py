"""The journal's records as the engine sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.engine.interface import Cause, RunStatus, StepOutcome, StepStatus

WHOLE = -1  # the iteration of a step itself, outside control/map
ENDED: frozenset[str] = frozenset({"done", "failed", "skipped", "cancelled", "reused"})
FINAL: frozenset[str] = frozenset({"succeeded", "failed", "denied", "cancelled"})


# Of what a repository or a forge told: digests and identifiers. The others are texts that people choose.
_GIT_NAMES = frozenset({"sha", "before", "event_id", "event", "received_at", "time"})


def hide_git(git: Mapping[str, str], hide: Callable[[str], str]) -> dict[str, str]:
    """As it may be shown: a title, a label or a branch is anybody's."""
    return {key: value if key in _GIT_NAMES else hide(value) for key, value in git.items()}


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. Times are seconds since the epoch; `cancel` is who asked and why, None when nobody did."""

    run_id: str
    flow: str
    flow_version: str
    flow_digest: str
    params: Mapping[str, Any]
    git: Mapping[str, str]
    partition: str | None
    cause: Cause
    actor: str
    budget_nano: int | None
    region: str | None
    reuse_from: str | None
    selection: tuple[str, ...] | None
    status: RunStatus
    requested_at: float
    started_at: float | None
    finished_at: float | None
    decision: Mapping[str, Any] | None
    error: Mapping[str, str] | None
    cancel: str | None
    dagster_runs: tuple[str, ...]
    evidence_path: str | None
    evidence_digest: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step, or one iteration of a control/map. `detail` holds what only the evidence needs."""

    step: str
    uses: str
    status: StepStatus
    iteration: int = WHOLE
    input_digest: str | None = None
    config_digest: str | None = None
    attempts: int = 0
    owner: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    duration_ms: int = 0
    artifact: Artifact | None = None
    cost_nano: int | None = None
    tokens: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    preview: str = ""
    error: Mapping[str, str] | None = None
    reason: str | None = None
    asset: bool = True
    chosen: tuple[str, ...] | None = None
    reused_from: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    claim: bytes | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def to_outcome(self, *, fresh: bool) -> StepOutcome:
        return StepOutcome(
            step=self.step,
            uses=self.uses,
            status=self.status,
            attempts=self.attempts,
            artifact=self.artifact,
            duration_ms=self.duration_ms,
            started_at=self.started_at,
            finished_at=self.finished_at or 0.0,
            cost_nano=self.cost_nano,
            tokens=self.tokens,
            facts=self.facts,
            preview=self.preview,
            error=self.error,
            asset=self.asset,
            fresh=fresh,
        )
