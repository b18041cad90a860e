"""Dagster's own home, below the state folder of the project.

Its storage is SQLite there, or the project's PostgreSQL. The URL of that one stands in no file: the
environment variable `MAESTRO_DAGSTER_DATABASE` carries it to the processes that `maestro dev` starts. There
Dagster's tables lie in the schema `public`, whatever the role is called, and apart from ours: both have a
table `alembic_version`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.database.address import use_schema
from maestro_dagster.errors import ProjectError
from maestro_dagster.workers.filelock import hold_file

if TYPE_CHECKING:
    import dagster as dg

_MARK = "# Written by Maestro at every start. Remove this line to keep a file of your own."
DATABASE_VARIABLE = "MAESTRO_DAGSTER_DATABASE"
DAGSTER_SCHEMA = "public"
_STATEMENT_MS, _RECYCLE_SECONDS, _POOL_OVERFLOW = 60_000, 3600, 8
_SQLITE = """\
  custom:
    module: maestro_dagster.workers.storage
    class: MaestroSqliteStorage
    config:
      base_dir: {storage}
"""
_POSTGRES = f"""\
  postgres:
    postgres_url:
      env: {DATABASE_VARIABLE}
"""
_CONFIG = """\
{mark}
telemetry:
  enabled: false
nux:
  enabled: false
storage:
{storage}\
compute_logs:
  module: maestro_dagster.workers.compute_log
  class: WorkerComputeLogManager
  config:
    base_dir: {logs}
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
run_launcher:
  module: maestro_dagster.workers.launcher
  class: MaestroRunLauncher
  config:
    home: {home}
"""


def dagster_home(home: Path) -> Path:
    return home / "dagster"


def dagster_url(database: str) -> str:
    """The URL for Dagster's tables in the database of a project."""
    return use_schema(database, DAGSTER_SCHEMA)


def prepare_dagster_home(home: Path, *, postgres: bool = False) -> Path:
    """Makes the folder and its dagster.yaml; a file without our first line is the operator's and stays."""
    folder = dagster_home(home)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dagster.yaml"
    storage = _POSTGRES if postgres else _SQLITE.format(storage=_quote(folder / "database"))
    wanted = _CONFIG.format(mark=_MARK, home=_quote(home), storage=storage, logs=_quote(folder / "output"))
    found = path.read_text(encoding="utf-8") if path.is_file() else None
    if found is None or (found.startswith(_MARK) and found != wanted):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(wanted, encoding="utf-8")
        temporary.replace(path)
    return folder


def _quote(path: Path) -> str:
    """A YAML single-quoted scalar."""
    return "'" + str(path).replace("'", "''") + "'"


@contextmanager
def open_instance(home: Path, database: str | None = None) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the project, whatever DAGSTER_HOME says.

    `database` is its PostgreSQL; None: that which `maestro dev` handed on, or SQLite.
    """
    import dagster as dg

    with _handing_on(database) as postgres:
        folder = prepare_dagster_home(home, postgres=postgres)
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            if postgres:  # else each event opens a connection of its own
                instance.optimize_for_webserver(_STATEMENT_MS, _RECYCLE_SECONDS, _POOL_OVERFLOW)
            yield instance


@contextmanager
def _handing_on(database: str | None) -> Iterator[bool]:
    """Whether Dagster's storage is a PostgreSQL; its URL is in the environment for the time of the block."""
    before = os.environ.get(DATABASE_VARIABLE)
    wanted = database if database is None else dagster_url(database)
    if wanted is None or wanted == before:
        yield before is not None
        return
    os.environ[DATABASE_VARIABLE] = wanted
    try:
        yield True
    finally:
        if before is None:
            os.environ.pop(DATABASE_VARIABLE, None)
        else:
            os.environ[DATABASE_VARIABLE] = before


def create_storage(home: Path, database: str | None = None) -> None:
    """Makes Dagster's databases, while no other process does: two that create one at once break it."""
    folder = dagster_home(home)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file(folder / "storage.lock"), open_instance(home, database) as instance:
        instance.get_runs_count()


def prepare_storage(home: Path) -> None:
    """As `create_storage`, in a process of its own, because the loop must not import Dagster."""
    command = [sys.executable, "-c", _OPEN_STORAGE, str(home)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ProjectError(
            "Dagster's storage cannot be opened",
            place=str(dagster_home(home)),
            remedy="the reason stands above; `maestro doctor` looks at the database and at the home",
            code="dagster-storage",
        )


_OPEN_STORAGE = """
import sys
from pathlib import Path
from maestro_dagster.workers.instance import create_storage
create_storage(Path(sys.argv[1]))
"""
