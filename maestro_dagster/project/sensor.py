"""The sensors of a project, for its files below `sensors/`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.project.root import find_project

if TYPE_CHECKING:
    from dagster import SensorDefinition

_LOG = logging.getLogger(__name__)


def build_push_sensor(near: str) -> SensorDefinition | None:
    """A sensor over the flows with `on: push` or `on: tag` of the project around the file `near`.

    None when the project has no such flow: Dagster knows no sensor without a job.
    """
    from maestro_dagster.project.intake import open_intake
    from maestro_dagster.project.load import read_flows
    from maestro_dagster.project.runtime import open_runtime
    from maestro_dagster.workers.sensor import PushSensor, PushSource

    project = find_project(Path(near).parent)
    wanting = [flow for flow in read_flows(project) if any(each.event in {"push", "tag"} for each in flow.on)]
    if not wanting:
        return None
    source = PushSource(
        intake=lambda: open_intake(project, _LOG.warning),
        runtime=lambda: open_runtime(project),
        repositories=tuple(project.repositories.values()),
    )
    return PushSensor(wanting, source)
