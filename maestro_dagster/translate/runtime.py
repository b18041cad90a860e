"""The running side of a project, as the Dagster objects see it: opened late, once per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maestro_dagster.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Runtime:
    """An open engine, the folder of the project's state, and the branch that is meant when none is named.

    `lake` is where the usage lake is; None: in the state folder. `database` is the URL of the PostgreSQL with
    Dagster's storage; None: SQLite in the state folder.
    """

    engine: Engine
    home: Path
    default_branch: str = "main"
    lake: str | None = None
    database: str | None = field(default=None, repr=False)


# Opens or gives the runtime of this process. Ops call it when they run, never when they are defined.
RuntimeSource = Callable[[], Runtime]


def project_runtime() -> Runtime:
    """The runtime of the project around the working directory, or that MAESTRO_PROJECT names."""
    import maestro_dagster

    runtime: Runtime = maestro_dagster.open_runtime()
    return runtime
