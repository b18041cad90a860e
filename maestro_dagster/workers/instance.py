"""Dagster's own home, below the state folder of the project."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.workers.filelock import hold_file

if TYPE_CHECKING:
    import dagster as dg

_MARK = "# Written by Maestro at every start. Remove this line to keep a file of your own."
_CONFIG = """\
{mark}
telemetry:
  enabled: false
nux:
  enabled: false
storage:
  custom:
    module: maestro_dagster.workers.storage
    class: MaestroSqliteStorage
    config:
      base_dir: {storage}
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


def prepare_dagster_home(home: Path) -> Path:
    """Makes the folder and its dagster.yaml; a file without our first line is the operator's and stays."""
    folder = dagster_home(home)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dagster.yaml"
    wanted = _CONFIG.format(
        mark=_MARK, home=_quote(home), storage=_quote(folder / "database"), logs=_quote(folder / "output")
    )
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
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the project, whatever DAGSTER_HOME says."""
    import dagster as dg

    folder = prepare_dagster_home(home)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def create_storage(home: Path) -> None:
    """Makes Dagster's databases, while no other process does: two that create one at once break it."""
    folder = dagster_home(home)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file(folder / "storage.lock"), open_instance(home) as instance:
        instance.get_runs_count()


def prepare_storage(home: Path) -> None:
    """As `create_storage`, in a process of its own, because the loop must not import Dagster."""
    command = [sys.executable, "-c", _OPEN_STORAGE, str(home)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


_OPEN_STORAGE = """
import sys
from pathlib import Path
from maestro_dagster.workers.instance import create_storage
create_storage(Path(sys.argv[1]))
"""
