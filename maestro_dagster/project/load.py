"""A project's flows and Python files as one Dagster `Definitions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maestro_dagster.errors import ManifestError
from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from dagster import Definitions

    from maestro_dagster.manifest.model import Flow


def load_project(project: Project) -> Definitions:
    """What the code location of the project holds.

    Raises ManifestError that names every flow which cannot be read, ProjectError (`project-code`,
    `flow-name-twice`): a location that lacks a flow would look as if the flow had been removed.
    """
    from maestro_dagster.project.modules import import_project_modules
    from maestro_dagster.translate.definition import build_definitions

    modules = import_project_modules(project.root)
    return build_definitions(read_flows(project), modules, pods=project.settings.pods)


def read_flows(project: Project) -> list[Flow]:
    """All flows of the project, in the order of their files."""
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.project.root import refuse_same_names
    from maestro_dagster.steps.catalogue import load_catalogue

    flows, broken = [], []
    for path in project.flow_files():
        try:
            flows.append((path, read_flow(path, load_catalogue())))
        except ManifestError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        raise ManifestError(
            f"{len(broken)} flows cannot be read; the first: {broken[0].fact}",
            place="; ".join(error.place for error in broken),
            remedy="`maestro flow lint` says what is wrong with each",
            code="flows-invalid",
        )
    refuse_same_names(project, [(flow.name, path) for path, flow in flows])
    return [flow for _, flow in flows]
