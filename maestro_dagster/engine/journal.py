"""The durable record of runs: what it has acknowledged is done, and nothing else is.

Keyed by (run, step, iteration, input digest). Writes go through one group-committing thread per process
and are durable when their future is set; reads go beside it. Several processes may use the file or the
server at once: a step belongs to the process that began its last attempt for as long as that lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from maestro_dagster.database.interface import Connection, Database
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.engine import lease, reading, writing
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.lease import is_live
from maestro_dagster.engine.process import mark_process
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.schema import corrupt, open_file
from maestro_dagster.engine.writer import Delivery, GroupWriter
from maestro_dagster.errors import JournalError
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.normal import flow_from_normal, flow_json

T = TypeVar("T")


class Journal:
    """Opened on first use. Safe between threads, processes and forks. `where`: a file, or a database."""

    def __init__(self, where: Path | Database) -> None:
        self.database = open_file(where) if isinstance(where, Path) else where
        self.place = self.database.place
        self._writer = GroupWriter(self.database)
        self._flows: dict[str, Flow] = {}

    # Runs

    def request(self, requests: Sequence[RunRequest]) -> list[bool]:
        """Which of the requests are new; all are durable when this returns."""
        now = time.time()
        prepared = []
        for request in requests:
            body = flow_json(request.flow)
            prepared.append((request, digest_bytes(body), body))
        return self._writer.call(lambda c: [writing.insert_run(c, *one, now) for one in prepared])

    def run(self, run_id: str) -> RunRow:
        """Raises JournalError (`run-unknown`)."""
        found = self._read(lambda c: reading.read_run(c, run_id))
        if found is None:
            raise JournalError(
                f"there is no run {run_id}",
                place=self.place,
                remedy="`maestro status` lists the runs of this project",
                code="run-unknown",
            )
        return found

    def runs(self, limit: int = 50, status: str | None = None, flow: str | None = None) -> list[RunRow]:
        return self._read(lambda c: reading.list_runs(c, limit, status, flow))

    def flow_bytes(self, digest: str) -> bytes:
        body = self._read(lambda c: reading.read_flow(c, digest))
        if body is None or digest_bytes(body) != digest:
            raise JournalError(
                f"the flow {digest} of a run is missing or damaged",
                place=self.place,
                remedy="restore the journal from a backup",
                code="journal-corrupt",
            )
        return body

    def flow(self, digest: str) -> Flow:
        if digest not in self._flows:
            if len(self._flows) > 32:  # noqa: PLR2004 - the flows of one process, not a cache of all
                self._flows.clear()
            self._flows[digest] = flow_from_normal(self.flow_bytes(digest))
        return self._flows[digest]

    def statuses(self, status: str) -> list[tuple[str, bool]]:
        return self._read(lambda c: reading.run_ids(c, status))

    def decide(self, run_id: str, decision: Mapping[str, Any]) -> bool:
        """Keeps the first decision: a run is admitted once. False when there was one."""
        return self._writer.call(lambda c: writing.store_decision(c, run_id, decision))

    def start_run(self, run_id: str) -> None:
        self._writer.call(lambda c: writing.start_run(c, run_id, time.time()))

    def cancel_run(self, run_id: str, why: str) -> bool:
        return self._writer.call(lambda c: writing.cancel_run(c, run_id, why))

    def is_cancelled(self, run_id: str) -> str | None:
        """Who asked for the cancellation and why, None when nobody did."""

        def ask(connection: Connection) -> str | None:
            row = connection.execute("SELECT cancel FROM run WHERE run_id = ?", (run_id,)).fetchone()
            return None if row is None else row[0]

        return self._read(ask)

    def add_dagster_run(self, run_id: str, dagster_run_id: str) -> None:
        self._writer.call(lambda c: writing.add_dagster_run(c, run_id, dagster_run_id))

    def finish_run(
        self,
        run_id: str,
        status: str,
        finished_at: float,
        rows: Sequence[StepRow],
        record: str,
        error: Mapping[str, str] | None,
    ) -> None:
        """The last steps, the final status and what the evidence says, in one transaction."""
        self._writer.call(lambda c: writing.finish_run(c, run_id, status, finished_at, rows, record, error))

    def record(self, run_id: str) -> str | None:
        def ask(connection: Connection) -> str | None:
            row = connection.execute("SELECT record FROM run WHERE run_id = ?", (run_id,)).fetchone()
            return None if row is None else row[0]

        return self._read(ask)

    def store_evidence(self, run_id: str, path: str, digest: str) -> None:
        self._writer.call(lambda c: writing.store_evidence(c, run_id, path, digest))

    # Steps

    def steps(self, run_id: str, step: str | None = None) -> list[StepRow]:
        return self._read(lambda c: reading.read_steps(c, run_id, step))

    def attempts(self, run_id: str, step: str, iteration: int) -> tuple[int, int, int]:
        """(last number, how many failed, how many died with their process)."""
        return self._read(lambda c: reading.count_attempts(c, run_id, step, iteration))

    def submit(self, work: Callable[[Connection], T], deliveries: Sequence[Delivery] = ()) -> Future[T]:
        """Group-committed work out of `writing`."""
        return self._writer.submit(work, deliveries)

    def acquire_rate(self, key: str, limit: int, seconds: float) -> float:
        """Takes a place in the window (0.0), or says how many seconds until one is free."""
        return self._writer.call(lambda c: writing.acquire_rate(c, key, limit, seconds, time.time()))

    # Leases

    def take_lease(
        self, run_id: str, owner: str, seconds: float, *, exclusive: bool = True, begin: bool = False
    ) -> bool:
        """False when another live owner holds the run exclusively. Taking one's own again renews it.

        With `begin` the run is marked as begun until it is released as `done`.
        """
        process = str(mark_process())
        return self._writer.call(
            lambda c: lease.take_lease(c, run_id, owner, process, seconds, exclusive=exclusive, begin=begin)
        )

    def renew_lease(self, run_id: str, owner: str, seconds: float) -> bool:
        return self._writer.call(lambda c: lease.renew_lease(c, run_id, owner, seconds))

    def release_lease(self, run_id: str, owner: str, *, done: bool = False) -> None:
        self._writer.call(lambda c: lease.release_lease(c, run_id, owner, done=done))

    def begun(self) -> list[str]:
        """Runs that some process took on and has not finished with, though the run may be closed."""
        return self._read(reading.begun_runs)

    def unheld(self, status: str) -> list[tuple[str, str, float]]:
        """(run_id, cause, requested_at) of runs that no living process holds, oldest first."""
        found = self._read(lambda c: reading.held_runs(c, status))
        held = {
            run_id
            for run_id, _, _, (process, exclusive, expires) in found
            if process is not None and is_live(process, expires, exclusive=bool(exclusive))
        }
        every = dict.fromkeys((run_id, cause, at) for run_id, cause, at, _ in found)
        return [each for each in every if each[0] not in held]

    def has_live_lease(self, run_id: str, *, shared: bool = False) -> bool:
        """Whether a living process holds the run; with `shared`, whether one runs steps of it."""
        found = self._read(lambda c: reading.read_leases(c, run_id))
        return any(
            is_live(process, expires, exclusive=exclusive)
            for _, process, exclusive, expires in found
            if not (shared and exclusive)
        )

    def live_owners(self, run_id: str) -> tuple[str, ...]:
        """Who may still end what they began in this run."""
        found = self._read(lambda c: reading.read_leases(c, run_id))
        return tuple(
            owner
            for owner, process, exclusive, expires in found
            if is_live(process, expires, exclusive=exclusive)
        )

    def leave(self, run_id: str, owner: str) -> None:
        """Gives up a run: its lease, and the steps that were left in the middle."""
        self._writer.call(lambda c: writing.leave(c, run_id, owner))

    def shrink_log(self) -> None:
        """Gives back the disk of SQLite's write-ahead log, unless another process is just using it."""
        if isinstance(self.database, SqliteDatabase):
            self.database.shrink_log()

    def close(self) -> None:
        self._writer.close()
        self.database.close()

    def ask(self, ask: Callable[[Connection], T]) -> T:
        """What only few want to know: `ask` reads, and changes nothing. Raises JournalError."""
        return self._read(ask)

    def _read(self, ask: Callable[[Connection], T]) -> T:
        try:
            return self.database.run_read(ask)
        except (ValueError, TypeError, KeyError) as error:
            raise corrupt(self.place) from error  # the row was kept, but not what was written
