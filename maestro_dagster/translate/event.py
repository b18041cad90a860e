"""What a run made, as Dagster's events: from an op, or without one for runs that ended early."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from maestro_dagster.engine.interface import StepOutcome
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.money import format_nano

RUN_TAG = "maestro/run_id"
FLOW_TAG = "maestro/flow"
_WIDEST = 200  # steps whose costs are added up for one artifact's metadata


@dataclass(frozen=True, slots=True)
class Made:
    """One artifact of one run."""

    key: dg.AssetKey
    digest: str
    metadata: Mapping[str, Any]
    run_id: str

    def to_result(self) -> dg.MaterializeResult[Any]:
        """Without metadata: from here Dagster would store it twice, in the output's event too."""
        return dg.MaterializeResult(
            asset_key=self.key,
            data_version=dg.DataVersion(self.digest),
            tags={RUN_TAG: self.run_id},
        )

    def to_event(self, partition: str | None) -> dg.AssetMaterialization:
        from dagster._core.definitions.data_version import DATA_VERSION_TAG

        return dg.AssetMaterialization(
            asset_key=self.key,
            metadata=self.metadata,
            partition=partition,
            tags={RUN_TAG: self.run_id, DATA_VERSION_TAG: self.digest},
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """One answer of one check."""

    key: dg.AssetKey
    name: str
    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warn: bool = False

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        return dg.AssetCheckSeverity.WARN if self.warn else dg.AssetCheckSeverity.ERROR

    def to_result(self) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=self.name,
            passed=self.passed,
            severity=self.severity,
            description=self.description,
            metadata=self.metadata,
        )

    def to_event(self) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=self.key,
            check_name=self.name,
            passed=self.passed,
            severity=self.severity,
            description=self.description,
            metadata=self.metadata,
        )


def artifact_made(
    outcome: StepOutcome,
    key: dg.AssetKey,
    run_id: str,
    evidence: str,
    preview_limit: int,
    with_inputs: Mapping[str, Any] | None = None,
) -> Made:
    """The artifact of a finished step. `evidence` is where the run's bundle is, or will be.

    `with_inputs` is what `RunCosts` says of the step.
    """
    artifact = outcome.artifact
    assert artifact is not None  # noqa: S101 - the caller asked
    shown = {"preview": dg.MetadataValue.md(outcome.preview[:preview_limit])} if outcome.preview else {}
    metadata: dict[str, Any] = {
        **shown,
        "digest": artifact.digest,
        "size": dg.MetadataValue.int(artifact.size),
        "media_type": artifact.media_type,
        "latency_ms": dg.MetadataValue.int(outcome.duration_ms),
        **({"tokens": dg.MetadataValue.int(outcome.tokens)} if outcome.tokens else {}),
        **({"attempts": dg.MetadataValue.int(outcome.attempts)} if outcome.attempts != 1 else {}),
        RUN_TAG: run_id,
        "evidence": dg.MetadataValue.path(evidence),
        **cost_metadata(outcome.cost_nano),
        **(with_inputs or {}),
    }
    if outcome.facts:
        metadata["facts"] = dg.MetadataValue.json(dict(outcome.facts))
    if outcome.status == "reused":
        metadata["reused"] = dg.MetadataValue.bool(True)
    return Made(key, artifact.digest, metadata, run_id)


def cost_metadata(cost_nano: int | None) -> dict[str, Any]:
    """The cost twice: as a number, which Dagster plots, and exactly. An unknown price is no number."""
    if cost_nano is None:
        return {"cost_usd_exact": "unknown"}
    return {
        "cost_usd": dg.MetadataValue.float(cost_nano / 1_000_000_000),
        "cost_usd_exact": format_nano(cost_nano),
    }


class RunCosts:
    """What the steps of a run cost so far, for what an artifact cost with all that it was made of in it.

    Of this run's records only: what was taken over from other runs, or read from other assets, is not
    counted. `maestro cost explain` follows those too.
    """

    def __init__(self, flow: Flow, outcomes: Iterable[StepOutcome] = ()) -> None:
        self._needs = {task.id: task.needs for task in flow.tasks}
        self._costs: dict[str, int | None] = {}
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: StepOutcome) -> None:
        if outcome.artifact is not None and outcome.status in {"done", "reused"}:
            self._costs[outcome.step] = outcome.cost_nano

    def describe(self, step: str) -> dict[str, Any]:
        """Nothing for a step that read nothing, nor where adding up for every step would take long."""
        seen = {step}
        todo = [step]
        while todo:
            fresh = [need for need in self._needs[todo.pop()] if need in self._costs and need not in seen]
            seen.update(fresh)
            todo += fresh
            if len(seen) > _WIDEST:
                return {}
        if len(seen) == 1:
            return {}
        known = [cost for each in seen if (cost := self._costs.get(each)) is not None]
        if len(known) < len(seen):
            return {"cost_with_inputs_usd_exact": "unknown"}
        return {
            "cost_with_inputs_usd": dg.MetadataValue.float(sum(known) / 1_000_000_000),
            "cost_with_inputs_usd_exact": format_nano(sum(known)),
        }
