"""What the dispatcher asks of the engine, answered by its journal."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from maestro_dagster.errors import JournalError
from maestro_dagster.workers.dispatch import Requested

if TYPE_CHECKING:
    from maestro_dagster.translate.runtime import Runtime

_OPEN = frozenset({"requested", "running"})


class EngineBoard:
    def __init__(self, runtime: Runtime) -> None:
        self._engine = runtime.engine

    def requested(self) -> Iterable[Requested]:
        for run_id, cause, at in self._engine.services.journal.unheld("requested"):
            yield Requested(run_id, cause, at)

    def orphaned(self) -> Iterable[str]:
        """Runs that nobody works on: begun and not ended, or ended and not yet known to Dagster."""
        journal = self._engine.services.journal
        found = dict.fromkeys(self._engine.orphaned())
        for run_id in journal.begun():
            if run_id not in found and self.is_open(run_id) and not journal.has_live_lease(run_id):
                found[run_id] = None
        return list(found)

    def holds(self, run_id: str, pid: int) -> bool:
        mine = f"{socket.gethostname()}:{pid}:"  # as lease_owner has it
        return any(owner.startswith(mine) for owner in self._engine.services.journal.live_owners(run_id))

    def is_open(self, run_id: str) -> bool:
        journal = self._engine.services.journal
        try:
            status = journal.run(run_id).status
        except JournalError:
            return False
        return status in _OPEN or run_id in journal.begun()
