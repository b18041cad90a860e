"""The sensors of a project, for its files below `sensors/`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.project.root import find_project

if TYPE_CHECKING:
    from dagster import SensorDefinition

    from maestro_dagster.engine.interface import Cause

_LOG = logging.getLogger(__name__)


def build_push_sensor(near: str) -> SensorDefinition | None:
    """A sensor over the flows with `on: push` or `on: tag` of the project around the file `near`.

    None when the project has no such flow: Dagster knows no sensor without a job.
    """
    return _build(near, "git_push", ("push", "tag"), ("push", "poll"))


def build_event_sensor(near: str) -> SensorDefinition | None:
    """As `build_push_sensor`, for all that a forge tells besides pushes: pull requests, releases, ..."""
    from maestro_dagster.manifest.trigger import REPOSITORY_EVENTS

    others = tuple(event for event in REPOSITORY_EVENTS if event not in ("push", "tag"))
    return _build(near, "ci_event", others, ("event",))


def _build(
    near: str, name: str, events: tuple[str, ...], causes: tuple[Cause, ...]
) -> SensorDefinition | None:
    from maestro_dagster.project.intake import open_intake
    from maestro_dagster.project.load import read_flows
    from maestro_dagster.project.runtime import open_runtime
    from maestro_dagster.workers.sensor import EventSensor, EventSource

    project = find_project(Path(near).parent)
    wanting = [flow for flow in read_flows(project) if any(each.event in events for each in flow.on)]
    if not wanting:
        return None
    source = EventSource(
        intake=lambda: open_intake(project, _LOG.warning, wait=True),
        runtime=lambda: open_runtime(project),
        causes=causes,
        repositories=tuple(project.repositories.values()) if "poll" in causes else (),
    )
    return EventSensor(name, wanting, source)
