"""A flow in a `dg` project, declared in a defs.yaml.

type: maestro_dagster.FlowComponent
attributes:
path: hello.yaml
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from maestro_dagster.errors import ManifestError
from maestro_dagster.translate.flow import (
    build_flow_assets,
    build_flow_job,
    build_flow_schedules,
    read_if_path,
)
from maestro_dagster.translate.runtime import project_runtime
from maestro_dagster.translate.translator import FlowTranslator


class FlowComponent(dg.Component, dg.Model, dg.Resolvable):
    """The assets and the job of one flow. Subclass it and override `translator` to change how they look."""

    path: str
    """The manifest, relative to the folder of the defs.yaml."""

    job: bool = True
    """Whether the flow gets a job of its own, and the schedules of its `on:`."""

    @property
    def translator(self) -> FlowTranslator:
        return FlowTranslator()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        path = Path(context.path) / self.path
        if not path.is_file():
            raise ManifestError(
                "there is no flow at the component's path",
                place=str(path),
                remedy="`path` is relative to the folder of the defs.yaml",
                code="flow-missing",
            )
        flow = read_if_path(path)
        return dg.Definitions(
            assets=build_flow_assets(flow, self.translator, runtime=project_runtime),
            jobs=[build_flow_job(flow, self.translator)] if self.job else [],
            schedules=build_flow_schedules(flow) if self.job else [],
        )
