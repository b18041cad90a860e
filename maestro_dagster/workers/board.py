"""What the dispatcher asks of the engine, answered by its journal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from maestro_dagster.workers.dispatch import Requested

if TYPE_CHECKING:
    from maestro_dagster.engine.engine import Engine

_OPEN = frozenset({"requested", "running"})


class EngineBoard:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def requested(self) -> Iterable[Requested]:
        journal = self._engine.services.journal
        for run_id in self._engine.requested():
            row = journal.run(run_id)
            if not journal.has_live_lease(run_id):
                yield Requested(run_id, row.cause, row.requested_at)

    def orphaned(self) -> Iterable[str]:
        return self._engine.orphaned()

    def is_open(self, run_id: str) -> bool:
        return self._engine.services.journal.run(run_id).status in _OPEN
