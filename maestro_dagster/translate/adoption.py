"""A run that was started in the Dagster UI becomes a Maestro run of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from maestro_dagster.engine.interface import RunRequest, RunView
from maestro_dagster.translate.event import FLOW_TAG, RUN_TAG
from maestro_dagster.translate.plan import FlowPlan

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import Runtime

MANUAL_PARTITION = "manual"  # of runs without a push, in flows that are partitioned by repository and ref
PARTITION_TAG = "dagster/partition"
_SCHEDULE_TAG = "dagster/schedule_name"
_LOOK_BACK = 200  # runs


def adopted_run_id(dagster_run_id: str, flow: str) -> str:
    """The Maestro run of a Dagster run: the ops of one flow in it share one."""
    return f"ui-{dagster_run_id}-{flow}"


def adopt_run(context: dg.AssetExecutionContext, plan: FlowPlan, runtime: Runtime) -> str:
    """Requests the run that this Dagster run stands for, once, and gives its id.

    Whoever selected some of the assets only gets a run that names the run its inputs come from: the
    newest succeeded one of the same partition.
    """
    run_id = adopted_run_id(context.run.run_id, plan.flow.name)
    key = context.partition_key if context.has_partition_key else None
    partition = None if key == MANUAL_PARTITION else key
    if key is not None:  # a schedule names its partition without asking whether it is there
        context.instance.add_dynamic_partitions(plan.partitions_name, [key])
    selection = _selected_steps(context, plan)
    last = newest_run(runtime, plan.flow.name, partition)
    # In the clear, which a view is not: what Dagster calls the partition may have secrets hidden.
    old = runtime.engine.services.journal.run(last.run_id) if last and partition else None
    runtime.engine.request(
        RunRequest(
            run_id=run_id,
            flow=plan.flow,
            git=dict(old.git) if old else {},
            partition=old.partition if old else partition,
            cause="schedule" if _SCHEDULE_TAG in context.run.tags else "ui",
            actor=context.run.tags.get("user", ""),
            reuse_from=last.run_id if last and selection is not None else None,
            selection=selection,
        )
    )
    context.instance.add_run_tags(context.run.run_id, {RUN_TAG: run_id, FLOW_TAG: plan.flow.name})
    return run_id


def newest_run(runtime: Runtime, flow: str, partition: str | None) -> RunView | None:
    """The newest succeeded run of a flow in a partition (None: runs without a push)."""
    for view in runtime.engine.list_runs(limit=_LOOK_BACK, status="succeeded"):
        if view.flow == flow and view.partition == partition:
            return view
    return None


def _selected_steps(context: dg.AssetExecutionContext, plan: FlowPlan) -> tuple[str, ...] | None:
    """The steps behind the selected assets, with the control steps; None when all are selected."""
    chosen = context.run.asset_selection
    if not chosen:
        return None
    steps = [task.id for task in plan.flow.tasks if task.id not in plan.keys or plan.keys[task.id] in chosen]
    return None if len(steps) == len(plan.flow.tasks) else tuple(steps)
