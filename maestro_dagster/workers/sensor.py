"""Events of repositories as stock Dagster sensors, for deployments without the loop of `maestro dev`.

Slower than the loop: Dagster's daemon evaluates a sensor every 5 s at most, and its launcher starts a new
process for each run. It needs the daemon, and the inbox of the project in reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.target import AutomationTarget

from maestro_dagster.engine.interface import Cause, RunView
from maestro_dagster.events.refs import poll_repositories
from maestro_dagster.manifest.model import Flow
from maestro_dagster.translate.adoption import MANUAL_PARTITION, PARTITION_TAG
from maestro_dagster.translate.event import FLOW_TAG, RUN_TAG
from maestro_dagster.translate.name import encode_name
from maestro_dagster.translate.plan import is_partitioned, partitions_name
from maestro_dagster.workers.guard import is_loop_running

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import RuntimeSource
    from maestro_dagster.workers.intake import Intake


@dataclass(frozen=True, slots=True)
class EventSource:
    """Opened in the process that evaluates the sensor, each time.

    Each cause belongs to one sensor: run keys are a sensor's own, so two would ask for a run twice.
    """

    intake: Callable[[], Intake]
    runtime: RuntimeSource
    causes: Sequence[Cause]
    repositories: Sequence[str] = ()


class EventSensor(dg.SensorDefinition):
    """Targets the jobs of flows by name: each flow's job is made elsewhere, and there is one of it."""

    def __init__(self, name: str, flows: Sequence[Flow], source: EventSource) -> None:
        names = [encode_name(flow.name) for flow in flows]
        super().__init__(
            name=name,
            job_name=names[0],
            evaluation_fn=lambda context: evaluate_events(context, source),
            minimum_interval_seconds=5,
            description="A run for each event that a flow wants. Not needed beside `maestro dev`.",
        )
        self._targets = [AutomationTarget(name) for name in names]


def evaluate_events(
    context: dg.SensorEvaluationContext, source: EventSource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Takes the inbox in, then asks Dagster for every requested run. The run key makes that idempotent."""
    runtime = source.runtime()
    if is_loop_running(runtime.home):
        return dg.SkipReason("`maestro dev` runs here and takes the events in")
    intake = source.intake()
    try:
        poll_repositories(intake.inbox, source.repositories)
        intake.take(retry=True)
    finally:
        intake.inbox.close()
    views = [runtime.engine.view(run_id) for run_id in runtime.engine.requested()]
    return [
        _run_request(context.instance, view, runtime.engine.flow(view.run_id))
        for view in views
        if view.cause in source.causes
    ]


def _run_request(instance: dg.DagsterInstance, view: RunView, flow: Flow) -> dg.RunRequest:
    partition = (view.partition or MANUAL_PARTITION) if is_partitioned(flow) else None
    if partition is not None:
        instance.add_dynamic_partitions(partitions_name(flow.name), [partition])
    return dg.RunRequest(
        run_key=view.run_id,
        job_name=encode_name(flow.name),
        partition_key=partition,
        tags={
            RUN_TAG: view.run_id,
            FLOW_TAG: flow.name,
            "maestro/cause": view.cause,
            # As a tag too, which spares Dagster the question whether the partition exists: it does now.
            **({PARTITION_TAG: partition} if partition else {}),
        },
    )
