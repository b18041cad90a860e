"""The run whose finished steps another run takes over."""

from __future__ import annotations

from collections.abc import Sequence

from maestro_dagster.artifacts.interface import ArtifactStore
from maestro_dagster.engine.row import StepRow
from maestro_dagster.engine.scope import Prepared
from maestro_dagster.manifest.model import Task


class Source:
    """What run `run_id` has made. A result is taken over while its content is still in the store."""

    def __init__(self, run_id: str, rows: Sequence[StepRow], store: ArtifactStore) -> None:
        self.run_id = run_id
        self._rows = {row.step: row for row in rows if row.iteration < 0 and row.status in {"done", "reused"}}
        self._store = store

    def find(self, task: Task, prepared: Prepared) -> StepRow | None:
        """The step's row there, when it read the same inputs with the same configuration."""
        row = self.find_any(task)
        same = row is not None and (row.input_digest, row.config_digest, row.uses) == (
            prepared.input_digest,
            prepared.config_digest,
            task.uses,
        )
        return row if same else None

    def find_any(self, task: Task) -> StepRow | None:
        """The step's row there, whatever it read."""
        row = self._rows.get(task.id)
        if row is None or (row.artifact is not None and not self._store.has(row.artifact.digest)):
            return None
        return row
