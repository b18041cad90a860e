"""`maestro dev`: the loop that runs what is pushed, and the server with webhooks and the Dagster UI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from maestro_dagster.project.root import Project
    from maestro_dagster.workers.companion import Companions
    from maestro_dagster.workers.guard import LoopGuard
    from maestro_dagster.workers.loop import Loop
    from maestro_dagster.workers.zygote import Job, Zygote


_PORT = 3000


@click.command(
    epilog="""\b
SIGTERM or Ctrl-C stops it: nothing new starts, and runs that are under way get a minute to end; a second
Ctrl-C leaves them to the next start, which resumes them.

\b
Example:
  maestro dev --port 3000
  maestro dev --port 3000 --no-ui --no-daemon   # webhooks and metrics only
"""
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Of webhooks, metrics and the Dagster UI.  [default: 3000]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches it can start runs in the Dagster UI.",
)
@click.option(
    "--no-ui", is_flag=True, help="Do not start the Dagster UI; without --port, nothing is served at all."
)
@click.option("--no-daemon", is_flag=True, help="Do not start Dagster's daemon (schedules, sensors).")
def command(port: int | None, host: str, no_ui: bool, no_daemon: bool) -> None:
    """Start the loop of this project, and its server on loopback."""
    from maestro_dagster.project.database import check_database
    from maestro_dagster.project.root import find_project
    from maestro_dagster.workers.guard import LoopGuard

    project = find_project()
    os.environ["MAESTRO_PROJECT"] = str(project.root)  # for children, wherever their working directory is
    with LoopGuard(project.home) as guard:
        check_database(project)  # first: what is started would each fail in its own words
        if project.settings.database:
            from maestro_dagster.workers.instance import DATABASE_VARIABLE, dagster_url

            os.environ[DATABASE_VARIABLE] = dagster_url(project.settings.database)
        _serve(project, guard, Served(port, host, ui=not no_ui, daemon=not no_daemon))


@dataclass(frozen=True, slots=True)
class Served:
    """What runs beside the loop."""

    port: int | None
    host: str
    ui: bool
    daemon: bool


def _serve(project: Project, guard: LoopGuard, served: Served) -> None:
    from maestro_dagster.project.report import open_reporter
    from maestro_dagster.project.trace import start_export
    from maestro_dagster.workers.guard import socket_path
    from maestro_dagster.workers.socket_file import listen_on

    say = _open_voice(project)
    zygote = _start_zygote(project, guard)  # first: a fork would copy what is opened later
    companions = _start_companions(project, served, say)
    reporter = open_reporter(project, say)
    export = start_export(project, say)
    try:
        loop = _make_loop(project, guard, companions, say)
        reporter.start()
        with listen_on(socket_path(project.home)) as server:
            loop.run(zygote, server)
        if companions.lost is not None:
            raise companions.lost  # whoever supervises this process learns of it by the exit status
    finally:
        if export is not None:
            export.stop()
        reporter.stop()
        companions.stop()
        socket_path(project.home).unlink(missing_ok=True)


def _start_zygote(project: Project, guard: LoopGuard) -> Zygote:
    from maestro_dagster.workers.zygote import Zygote

    def perform(job: Job) -> int:
        from maestro_dagster.project.runtime import open_runtime
        from maestro_dagster.workers.perform import perform_job

        return perform_job(job, lambda: open_runtime(project))

    def preload() -> None:
        from maestro_dagster.workers.perform import preload_modules

        preload_modules()

    return Zygote.start(perform, preload, project.home / "logs" / "workers.log", guard.descriptors())


def _start_companions(project: Project, served: Served, say: Callable[[str], None]) -> Companions:
    from maestro_dagster.workers.companion import Companions

    companions = Companions(
        project.home / "dagster", project.root, project.home / "logs" / "dagster.log", say
    )
    if served.ui or served.port is not None:  # first: a forge need not wait for Dagster
        companions.start_server(served.port or _PORT, served.host, ui=served.ui)
    if served.daemon:
        from maestro_dagster.workers.instance import prepare_storage

        prepare_storage(project.home)
        companions.start_daemon()
    return companions


def _make_loop(
    project: Project, guard: LoopGuard, companions: Companions, say: Callable[[str], None]
) -> Loop:
    from maestro_dagster.project.intake import open_intake
    from maestro_dagster.project.runtime import open_runtime
    from maestro_dagster.workers.board import EngineBoard
    from maestro_dagster.workers.dispatch import Dispatcher
    from maestro_dagster.workers.loop import Loop

    runtime = open_runtime(project)
    return Loop(
        guard=guard,
        intake=open_intake(project, say),
        dispatcher=Dispatcher(
            EngineBoard(runtime),
            None,
            project.settings.max_concurrent_runs,
            say,
            look=runtime.engine.view,
        ),
        start_zygote=lambda: _start_zygote(project, guard),
        cancel=runtime.engine.cancel,
        repositories=tuple(project.repositories.values()),
        say=say,
        watch=companions.look,
    )


def _open_voice(project: Project) -> Callable[[str], None]:
    from maestro_dagster.project.redaction import open_redactor
    from maestro_dagster.telemetry.log import make_voice

    return make_voice(project.settings.log_format, click.echo, open_redactor(project))
