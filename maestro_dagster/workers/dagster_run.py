"""The Dagster runs behind a Maestro run: making one, running it here, asking what they recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run as execute_dagster_run
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from maestro_dagster.engine.interface import RunView
from maestro_dagster.translate.adoption import MANUAL_PARTITION, PARTITION_TAG
from maestro_dagster.translate.event import FLOW_TAG, RUN_TAG
from maestro_dagster.translate.flow import build_flow_job, build_op
from maestro_dagster.translate.plan import FlowPlan
from maestro_dagster.translate.runtime import Runtime
from maestro_dagster.translate.translator import FlowTranslator

if TYPE_CHECKING:
    from dagster._core.storage.dagster_run import DagsterRun

LOCATION_NAME = "maestro"  # of the code location that `maestro dev` shows
_REPOSITORY_NAME = "__repository__"  # Dagster's name for what `Definitions` becomes


def _make_quiet_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Says nothing: the event log has it all, and writing each event twice costs time."""
    del context
    logger = logging.Logger("maestro.quiet", logging.CRITICAL + 1)  # noqa: LOG001 - not in the tree
    logger.addHandler(logging.NullHandler())
    return logger


_QUIET = dg.LoggerDefinition(_make_quiet_logger)


def build_job(plan: FlowPlan, translator: FlowTranslator, runtime: Runtime) -> dg.JobDefinition:
    """The job of a flow as the journal knows it, whatever its file says now."""

    def source() -> Runtime:
        return runtime

    assets = [build_op(plan, op, translator, source) for op in plan.ops]
    definitions = dg.Definitions(
        assets=assets,
        jobs=[build_flow_job(plan.flow, translator)],
        executor=dg.in_process_executor,
        loggers={"console": _QUIET},
    )
    return definitions.resolve_job_def(plan.job_name)


def partition_key(plan: FlowPlan, view: RunView) -> str | None:
    """The Dagster partition of a run; None for flows that are not partitioned."""
    return (view.partition or MANUAL_PARTITION) if plan.partitioned else None


def execute_in_dagster(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    plan: FlowPlan,
    view: RunView,
    selection: frozenset[dg.AssetKey] | None,
    runtime: Runtime,
) -> DagsterRun:
    """One Dagster run in this process, of the selected assets or of all (None)."""
    partition = partition_key(plan, view)
    if partition is not None:
        instance.add_dynamic_partitions(plan.partitions_name, [partition])
    part = job if selection is None else job.get_subset(asset_selection=selection)
    run = instance.create_run_for_job(
        job_def=part,
        run_config={"loggers": {"console": {}}},  # else Dagster takes its own loggers, which print
        tags=run_tags(view, partition),
        asset_selection=selection,
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION_NAME), _REPOSITORY_NAME),
            plan.job_name,
        ),
    )
    runtime.engine.add_dagster_run(view.run_id, run.run_id)
    execute_dagster_run(InMemoryJob(job), run, instance, raise_on_error=False)
    found = instance.get_run_by_id(run.run_id)
    return found or run


def run_tags(view: RunView, partition: str | None) -> dict[str, str]:
    tags = {RUN_TAG: view.run_id, FLOW_TAG: view.flow, "maestro/cause": view.cause}
    tags |= {f"maestro/{name}": view.git[name] for name in ("branch", "sha") if view.git.get(name)}
    if partition is not None:
        tags[PARTITION_TAG] = partition
    return tags


def dagster_runs(instance: dg.DagsterInstance, run_id: str) -> list[DagsterRun]:
    """Every Dagster run of a Maestro run, newest first."""
    return list(instance.get_runs(filters=dg.RunsFilter(tags={RUN_TAG: run_id})))


def materialised(
    instance: dg.DagsterInstance, run_id: str, plan: FlowPlan, partition: str | None
) -> frozenset[dg.AssetKey]:
    """The assets that were recorded for this Maestro run, with a Dagster run or without."""
    found: set[dg.AssetKey] = set()
    for run in dagster_runs(instance, run_id):
        found |= _recorded_by(instance, run.run_id)
    closing = [plan.evidence_key, *([plan.keys[plan.sbom]] if plan.sbom else [])]
    for key in closing:
        if key not in found and _recorded_alone(instance, key, run_id, partition):
            found.add(key)
    return frozenset(found)


def _recorded_by(instance: dg.DagsterInstance, dagster_run_id: str) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    cursor = None
    while True:
        page = instance.get_records_for_run(
            dagster_run_id, cursor, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1000
        )
        found |= {record.asset_key for record in page.records if record.asset_key}
        if not page.has_more:
            return found
        cursor = page.cursor


def _recorded_alone(
    instance: dg.DagsterInstance, key: dg.AssetKey, run_id: str, partition: str | None
) -> bool:
    filters = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(filters, limit=50).records
    events = (record.asset_materialization for record in records)
    return any(event is not None and (event.tags or {}).get(RUN_TAG) == run_id for event in events)


def fail_dead_runs(instance: dg.DagsterInstance, run_id: str, why: str) -> int:
    """Dagster runs whose process died still say STARTED: says of each what happened. Gives how many."""
    dead = [run for run in dagster_runs(instance, run_id) if not run.is_finished]
    for run in dead:
        instance.report_run_failed(run, message=why)
    return len(dead)


def still_wanted(plan: FlowPlan, view: RunView, recorded: Iterable[dg.AssetKey]) -> frozenset[dg.AssetKey]:
    """Assets that a resume must select: of steps that have not ended, and of artifacts not yet recorded."""
    statuses: Mapping[str, str] = {step.step: step.status for step in view.steps}
    have = {step.step for step in view.steps if step.artifact is not None}
    ended = {"done", "reused", "failed", "skipped", "cancelled"}
    steps = {
        key
        for name, key in plan.keys.items()
        if name in statuses and (statuses[name] not in ended or name in have)
    }
    closing = {plan.evidence_key, *([plan.keys[plan.sbom]] if plan.sbom else [])}
    return frozenset((steps | closing) - set(recorded))
