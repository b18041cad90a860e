"""A flow as Dagster assets and a job: the Python face of the translation.

from maestro_dagster import build_flow_assets

defs = dg.Definitions(assets=build_flow_assets("assets/hello.yaml"))
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.types.dagster_type import Any as DagsterAny
from dagster._utils.warnings import disable_dagster_warnings

from maestro_dagster.errors import ProjectError
from maestro_dagster.manifest.model import Flow
from maestro_dagster.translate.adoption import MANUAL_PARTITION, PARTITION_TAG
from maestro_dagster.translate.check import check_specs
from maestro_dagster.translate.event import FLOW_TAG
from maestro_dagster.translate.execution import run_op
from maestro_dagster.translate.io_manager import FLOW_IO_KEY, flow_io_manager
from maestro_dagster.translate.name import encode_name
from maestro_dagster.translate.plan import FlowPlan, Op, Output, is_partitioned, partitions_name, plan_flow
from maestro_dagster.translate.runtime import RuntimeSource, project_runtime
from maestro_dagster.translate.translator import FlowTranslator, own_metadata


def build_flow_assets(
    flow: Flow | str | Path,
    translator: FlowTranslator | None = None,
    *,
    runtime: RuntimeSource = project_runtime,
) -> list[dg.AssetsDefinition]:
    """The assets of a flow, or of the flow in a file.

    Args:
        flow: a flow, or the path of a manifest in any of the three dialects.
        translator: how keys, groups, owners, tags and kinds are made.
        runtime: opens the engine when an op runs; by default that of the project around the working
            directory. Give the same function for all flows of a code location.

    Raises ManifestError when the manifest cannot be read.

    """
    translator = translator or FlowTranslator()
    plan = plan_flow(read_if_path(flow), translator)
    return [build_op(plan, op, translator, runtime) for op in plan.ops]


def read_if_path(flow: Flow | str | Path) -> Flow:
    if isinstance(flow, Flow):
        return flow
    from maestro_dagster.manifest.read import read_flow

    return read_flow(Path(flow))


def build_op(
    plan: FlowPlan, op: Op, translator: FlowTranslator, runtime: RuntimeSource
) -> dg.AssetsDefinition:
    """One op of a flow as a multi-asset of which any subset may run and any output may be missing."""
    own = {output.key for output in op.outputs}
    outside = sorted({key for output in op.outputs for key in output.parents} - own)

    outs = {
        output.name: dg.AssetOut.from_spec(
            _spec(translator, output),
            dagster_type=DagsterAny,
            is_required=False,
            io_manager_key=FLOW_IO_KEY,
        )
        for output in op.outputs
    }

    def run_flow_steps(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from run_op(context, plan, op, translator, runtime)

    # Dagster compares the annotation with the class itself, and here annotations are texts.
    run_flow_steps.__annotations__["context"] = dg.AssetExecutionContext
    with disable_dagster_warnings():  # `resource_defs` is beta; the versions are pinned to one minor
        return dg.multi_asset(
            name=op.name,
            outs=outs,
            deps=outside,
            internal_asset_deps={output.name: set(output.parents) for output in op.outputs},
            check_specs=check_specs(plan, op) if translator.settings.enable_checks else None,
            partitions_def=partitions_of(plan.flow),
            can_subset=True,
            resource_defs={FLOW_IO_KEY: flow_io_manager(runtime)},
            op_tags={"maestro/pod": "true"} if op.pod else None,
        )(run_flow_steps)


def _spec(translator: FlowTranslator, output: Output) -> dg.AssetSpec:
    """The translator's spec; an overridden one gets back what the IO manager needs."""
    spec = translator.get_asset_spec(output.product)
    own = own_metadata(output.product)
    if spec.key == output.key and own.items() <= spec.metadata.items():
        return spec  # changing a spec costs as much as making it
    return spec.replace_attributes(key=output.key, metadata={**spec.metadata, **own})


def partitions_of(flow: Flow) -> dg.DynamicPartitionsDefinition | None:
    """One partition a repository and ref for flows that run on pushes, so that branches stay apart."""
    return dg.DynamicPartitionsDefinition(name=partitions_name(flow.name)) if is_partitioned(flow) else None


def build_flow_schedules(flow: Flow) -> list[dg.ScheduleDefinition]:
    """One schedule for each `schedule:` of the flow's `on:`, in UTC. They need Dagster's daemon."""
    job = encode_name(flow.name)
    tags = {FLOW_TAG: flow.name} | ({PARTITION_TAG: MANUAL_PARTITION} if is_partitioned(flow) else {})
    return [
        dg.ScheduleDefinition(
            name=f"{job}_schedule{number or ''}",
            job_name=job,
            cron_schedule=cron,
            execution_fn=lambda _context: dg.RunRequest(tags=tags),
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"The flow {flow.name}, as its `on:` says.",
        )
        for number, cron in enumerate(trigger.schedule for trigger in flow.on if trigger.schedule)
    ]


def build_flow_job(
    flow: Flow | str | Path, translator: FlowTranslator | None = None, *, pods: bool = False
) -> Any:
    """The job of a flow, for `Definitions(jobs=...)`: all its assets, in one process.

    With `pods` each segment of a flow in which a step asks for a pod runs in one, launched by dagster-k8s.
    Raises ProjectError (`pods-extra-missing`) when that is not installed.
    """
    translator = translator or FlowTranslator()
    plan = plan_flow(read_if_path(flow), translator)
    return dg.define_asset_job(
        plan.job_name,
        selection=dg.AssetSelection.assets(*plan.keys.values()),
        description=plan.flow.description or None,
        tags={FLOW_TAG: plan.flow.name},
        executor_def=_pod_executor() if pods and any(op.pod for op in plan.ops) else dg.in_process_executor,
    )


def _pod_executor() -> dg.ExecutorDefinition:
    """One pod after the other: a run is held by one process at a time."""
    try:
        from dagster_k8s import k8s_job_executor
    except ImportError as error:
        raise ProjectError(
            "the setting pods needs dagster-k8s, which is not installed",
            place="[tool.maestro] pods",
            remedy="pip install 'maestro-dagster[k8s]'",
            code="pods-extra-missing",
        ) from error
    return k8s_job_executor.configured({"max_concurrent": 1}, name="k8s")
