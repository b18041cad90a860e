"""All of a project as one `Definitions`: its flows, and what its Python files define."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeVar

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from maestro_dagster.manifest.model import Flow
from maestro_dagster.translate.flow import build_flow_assets, build_flow_job, build_flow_schedules
from maestro_dagster.translate.translator import FlowTranslator

T = TypeVar("T")


def build_definitions(
    flows: Sequence[Flow],
    modules: Sequence[ModuleType],
    translator: FlowTranslator | None = None,
    *,
    pods: bool = False,
) -> dg.Definitions:
    """A job and assets for each flow; assets, checks, jobs, schedules, sensors and resources of the modules.

    A resource is known by the name of its variable. A `FlowTranslator` of a module replaces the default.
    `pods` is that of `build_flow_job`.
    """
    translator = translator or next(iter(_named(modules, FlowTranslator).values()), FlowTranslator())
    resources: dict[str, Any] = {
        **_named(modules, dg.ConfigurableResource),
        **_named(modules, dg.ConfigurableIOManagerFactory),
        **_named(modules, dg.IOManager),
    }
    return dg.Definitions(
        assets=[
            *(asset for flow in flows for asset in build_flow_assets(flow, translator)),
            *dg.load_assets_from_modules(modules),
        ],
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=[
            *(build_flow_job(flow, translator, pods=pods) for flow in flows),
            *_named(modules, dg.JobDefinition).values(),
            *_named(modules, UnresolvedAssetJobDefinition).values(),
        ],
        schedules=[
            *(schedule for flow in flows for schedule in build_flow_schedules(flow)),
            *_named(modules, dg.ScheduleDefinition).values(),
        ],
        sensors=list(_named(modules, dg.SensorDefinition).values()),
        resources=resources,
    )


def _named(modules: Sequence[ModuleType], kind: type[T]) -> dict[str, T]:
    """The public module-level objects of one kind, by the name of their variable."""
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, kind) and not name.startswith("_")
    }
