"""Which runs have a process: starts requested ones, resumes those whose process died, gives up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from maestro_dagster.workers.zygote import ChildEvent, Job

MAX_RESUMES = 5  # processes that may die on one run before it is closed as failed
ORPHAN_SECONDS = 2.0  # between looks at runs whose process died
FOREIGN_SECONDS = 30.0  # how long a run that was requested elsewhere waits for its own process


@dataclass(frozen=True, slots=True)
class Requested:
    """A run that nobody works on yet. `cause` and `requested_at` are those of its RunView."""

    run_id: str
    cause: str
    requested_at: float


class RunBoard(Protocol):
    """What the dispatcher asks of the engine."""

    def requested(self) -> Iterable[Requested]:
        """In the order of the requests."""

    def orphaned(self) -> Iterable[str]:
        """Runs that began and whose process is dead."""

    def is_open(self, run_id: str) -> bool: ...


class Starter(Protocol):
    def submit(self, job: Job) -> None: ...


@dataclass
class Dispatcher:
    """`limit` is how many runs have a process at once; 0 starts none (runs are still recorded).

    Causes in `own` are started at once. Other requests (the command line, the UI) have a process of
    their own and are taken over only when that never appeared.
    """

    board: RunBoard
    starter: Starter | None  # set before the first run is started
    limit: int
    say: Callable[[str], None]
    own: frozenset[str] = frozenset({"push", "poll", "schedule"})
    clock: Callable[[], float] = time.time
    active: dict[tuple[str, str], int] = field(default_factory=dict)  # (kind, id) -> pid, 0 while it starts
    deaths: dict[str, int] = field(default_factory=dict)
    _looked: float = 0.0

    @property
    def running(self) -> int:
        return sum(1 for kind, _ in self.active if kind != "dagster")

    def fill(self) -> None:
        """Starts what may start."""
        self._resume()
        if self.running >= self.limit:
            return
        for request in self.board.requested():
            if self.running >= self.limit:
                return
            foreign = request.cause not in self.own
            if foreign and self.clock() - request.requested_at < FOREIGN_SECONDS:
                continue
            self._start(Job("maestro", request.run_id))

    def launch(self, dagster_run_id: str) -> None:
        """A run that somebody asked for in the UI; it waits for nobody."""
        self._start(Job("dagster", dagster_run_id))

    def handle(self, event: ChildEvent) -> None:
        """A child started or ended."""
        if event.job is None:
            return
        key = (event.job.kind, event.job.id)
        if event.event == "started":
            self.active[key] = event.pid
        elif event.event == "ended":
            self.active.pop(key, None)
            self._looked = 0.0  # whatever it left open is looked at now
            if event.job.kind == "maestro" and self.board.is_open(event.job.id):
                self.deaths[event.job.id] = self.deaths.get(event.job.id, 0) + 1
                self.say(f"the process of {event.job.id} ended with {event.code} before its run did")
            else:
                self.deaths.pop(event.job.id, None)

    def forget_children(self) -> None:
        """The fork server died: who still runs is known by the leases alone."""
        self.active.clear()

    def _resume(self) -> None:
        now = self.clock()
        if self.limit < 1 or now - self._looked < ORPHAN_SECONDS:
            return
        self._looked = now
        for run_id in self.board.orphaned():
            if self.running >= self.limit:
                return
            died = self.deaths.get(run_id, 0)
            if died >= MAX_RESUMES:
                self.say(f"{run_id} is closed: its process died {died} times")
                self._start(Job("close", run_id))
            else:
                self.say(f"{run_id} is resumed")
                self._start(Job("maestro", run_id))

    def _start(self, job: Job) -> None:
        key = (job.kind, job.id)
        if not any((kind, job.id) in self.active for kind in ("maestro", "close", "dagster")):
            if self.starter is None:
                return
            self.active[key] = 0
            self.starter.submit(job)
