"""Two spools read as one: what is written goes to `now`, what `before` still has is read and removed too.

For a project that got a database: no usage is lost from sight that its folder had then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from maestro_dagster.costs.interface import Chunk, LineageFile, LineageSpool, UsageEvent, UsageWriter
from maestro_dagster.costs.lineage import lineage_file, lineage_files
from maestro_dagster.costs.postgres_spool import PostgresSpool
from maestro_dagster.costs.spool import Spool, resolve_events


@dataclass(frozen=True, slots=True)
class JoinedSpool:
    now: PostgresSpool
    before: Spool

    @property
    def lineage(self) -> JoinedLineage:
        return JoinedLineage(self.now.lineage, self.before.lineage)

    def open_run(self, run_id: str) -> UsageWriter:
        return self.now.open_run(run_id)

    def runs(self) -> tuple[str, ...]:
        return tuple(sorted({*self.before.runs(), *self.now.runs()}))

    def read_run(self, run_id: str) -> list[UsageEvent]:
        return resolve_events([*self.before.read_run(run_id), *self.now.read_run(run_id)])

    def days(self) -> tuple[str, ...]:
        return tuple(sorted({*self.before.days(), *self.now.days()}))

    def chunks(self, day: str | None = None, sources: Collection[str] | None = None) -> Iterator[Chunk]:
        yield from self.before.chunks(day, sources)
        yield from self.now.chunks(day, sources)

    def read_source(self, source: str) -> Iterator[UsageEvent]:
        return self._of(source).read_source(source)

    def remove(self, source: str, end: int) -> bool:
        return self._of(source).remove(source, end)

    def _of(self, source: str) -> Spool | PostgresSpool:
        return self.before if source.endswith(".ndjson") else self.now  # the other's end in a number


@dataclass(frozen=True, slots=True)
class JoinedLineage:
    now: LineageSpool
    before: Path

    def write(self, run_id: str, data: bytes) -> LineageFile:
        return self.now.write(run_id, data)

    def file(self, run_id: str) -> LineageFile:
        """Where it is; the newer of two."""
        known = dict(self.now.files())
        return known.get(run_id) or lineage_file(self.before, run_id)

    def files(self) -> tuple[tuple[str, LineageFile], ...]:
        return (*lineage_files(self.before), *self.now.files())
