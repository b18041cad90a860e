"""The Dagster code location of the project around the working directory, or that MAESTRO_PROJECT names."""

from __future__ import annotations

from maestro_dagster.project.load import load_project
from maestro_dagster.project.root import find_project

defs = load_project(find_project())
