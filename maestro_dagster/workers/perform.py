"""What a forked child does: a Maestro run, the end of one that cannot be resumed, or a run of the UI."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from typing import TYPE_CHECKING

from maestro_dagster.errors import MaestroError
from maestro_dagster.telemetry.redaction import hide_printed
from maestro_dagster.workers.dispatch import EXIT_BLOCKED, EXIT_BUSY
from maestro_dagster.workers.zygote import PREPARE, Job

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import RuntimeSource

_EXITS = {"succeeded": 0, "failed": 1, "denied": 3, "cancelled": 4}

# What a run needs is away, and nothing is wrong with the run: it waits, however long that takes.
_AWAY = frozenset(
    {
        "artifact-write",
        "artifact-unreadable",
        "store-unavailable",
        "evidence-unreachable",
        "evidence-write",
        "journal-unavailable",
        "database-unavailable",
        "disk-full",
    }
)

# Imported before the first fork, so that no run pays for them.
_PRELOADED = (
    "maestro_dagster.workers.execute",
    "maestro_dagster.project.services",
    "maestro_dagster.engine.engine",
    "maestro_dagster.artifacts.store",
    "maestro_dagster.costs.rate",
    "maestro_dagster.costs.spool",
    "maestro_dagster.evidence.bundle",
    "maestro_dagster.evidence.key",
    "maestro_dagster.evidence.verify",
    "maestro_dagster.policy.engine",
    "maestro_dagster.llm.hub",
    "maestro_dagster.sandbox.cage",
    "aiohttp",
    "rfc8785",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "maestro_dagster.workers.compute_log",
    "maestro_dagster.workers.storage",
    "dagster._core.storage.root",
    "dagster._core.run_coordinator",
    "maestro_dagster.workers.launcher",
    "dagster._core.executor.in_process",
    "dagster._daemon",
    "sqlalchemy.dialects.sqlite",
)


def preload_modules() -> None:
    """What a run imports, and the step kinds. A module that is missing is missed when it is used."""
    # Not the number 2, which leads elsewhere while a run's output is captured: what is on its way there
    # when the process crashes is lost.
    faulthandler.enable(os.dup(2))
    for name in _PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not preloaded: {name}: {error}")  # noqa: T201 - stdout is the workers' log here
    from maestro_dagster.steps.catalogue import load_catalogue

    catalogue = load_catalogue()
    for uses in catalogue.uses():
        try:
            catalogue.kind(uses)
        except Exception as error:  # noqa: BLE001 - a third party's kind may raise anything on import
            print(f"not preloaded: {uses}: {error}")  # noqa: T201


def perform_job(job: Job, source: RuntimeSource) -> int:
    """Does it, and gives the exit status."""
    from maestro_dagster.workers.compute_log import set_capture

    set_capture("file")
    if job == PREPARE:
        from maestro_dagster.workers.instance import create_storage

        runtime = source()
        create_storage(runtime.home, runtime.database)
        return 0
    if job.kind == "dagster":
        return _perform_dagster(job.id, source)
    from maestro_dagster.workers.execute import close_dead_run, execute_run

    try:
        view = close_dead_run(source(), job.id) if job.kind == "close" else execute_run(source(), job.id)
    except MaestroError as error:
        if error.error_code == "run-busy":
            return EXIT_BUSY
        if error.error_code in _AWAY:
            sys.stderr.write(hide_printed(f"{job.id}: {error}\n"))
            return EXIT_BLOCKED
        raise
    return _EXITS.get(view.status, 1)


def _perform_dagster(dagster_run_id: str, source: RuntimeSource) -> int:
    """A Dagster run that the UI created, of flows or of hand-written assets."""
    from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
    from dagster._core.execution.api import execute_run_iterator

    from maestro_dagster.workers.instance import open_instance

    runtime = source()
    with open_instance(runtime.home, runtime.database) as instance:
        run = instance.get_run_by_id(dagster_run_id)
        if run is None or run.is_finished:
            return 0
        repository = ReconstructableRepository.for_module("maestro_dagster.definitions", "defs")
        job = ReconstructableJob(repository, run.job_name)
        for _ in execute_run_iterator(job, run, instance):
            pass
        found = instance.get_run_by_id(dagster_run_id)
        return 0 if found is not None and found.is_success else 1
