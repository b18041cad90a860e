"""Which runs have a process: starts requested ones, resumes those whose process died, gives up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from maestro_dagster.errors import MaestroError
from maestro_dagster.workers.news import end_line, start_line
from maestro_dagster.workers.zygote import ChildEvent, Job

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView

MAX_DEATHS = 6  # processes that may die on one run before it is closed as failed
ORPHAN_SECONDS = 2.0  # between looks at runs whose process died
BACKOFF_SECONDS = 0.25  # doubled with each death of a run's process
BLOCKED_SECONDS = 30.0  # until a run that waits for the operator is tried again
EXIT_BLOCKED = 2  # of a child that lacks what others have to bring back: the key, a store, the database
EXIT_BUSY = 75  # of a child whose run another process holds (EX_TEMPFAIL of sysexits.h): nothing is lost
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

    def holds(self, run_id: str, pid: int) -> bool:
        """Whether this process of this machine holds the run: it may be that of another loop by now."""


class Starter(Protocol):
    def submit(self, job: Job) -> None: ...


@dataclass
class Dispatcher:
    """`limit` is how many runs have a process at once; 0 starts none (runs are still recorded).

    `look` gives a run for the line that is said when it starts and when it ends; without it none is said.
    A start is said once the process holds the run, since loops that share a database all try.
    Causes in `own` are started at once. Other requests (the command line, the UI) have a process of
    their own and are taken over only when that never appeared.
    """

    board: RunBoard
    starter: Starter | None  # set before the first run is started
    limit: int
    say: Callable[[str], None]
    own: frozenset[str] = frozenset({"push", "poll", "event", "schedule"})
    look: Callable[[str], RunView] | None = None
    clock: Callable[[], float] = time.time
    active: dict[tuple[str, str], int] = field(default_factory=dict)  # (kind, id) -> pid, 0 while it starts
    deaths: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _looked: float = 0.0
    _told: dict[str, float] = field(default_factory=dict)  # runs that have a process, and since when
    _untold: dict[str, str] = field(default_factory=dict)  # those of them whose start is still to be said

    @property
    def running(self) -> int:
        return sum(1 for kind, _ in self.active if kind != "dagster")

    def fill(self) -> None:
        """Starts what may start."""
        self._tell_starts()
        self._resume()
        if self.running >= self.limit:
            return
        for request in self.board.requested():
            if self.running >= self.limit:
                return
            foreign = request.cause not in self.own
            if foreign and self.clock() - request.requested_at < FOREIGN_SECONDS:
                continue
            self._go_on(request.run_id)

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
            if event.job.kind != "dagster":
                self._note_end(event.job.id, event.code)

    def _note_end(self, run_id: str, code: int) -> None:
        # Another loop on the same database was faster: start and end are that one's to tell.
        if code == EXIT_BUSY:
            self._told.pop(run_id, None)
            self._untold.pop(run_id, None)
            self._not_before[run_id] = self.clock() + ORPHAN_SECONDS
            return
        if not self.board.is_open(run_id):
            self._tell_end(run_id)
            return
        if code == EXIT_BLOCKED:  # the operator has to act, and the run waits for that
            self._not_before[run_id] = self.clock() + BLOCKED_SECONDS
            self.say(f"{run_id} waits for what it needs: see `maestro logs {run_id}` and logs/workers.log")
            return
        died = self.deaths[run_id] = self.deaths.get(run_id, 0) + 1
        # The first death is taken up at once: a machine that was switched off kills every run once.
        self._not_before[run_id] = self.clock() + (0.0 if died == 1 else BACKOFF_SECONDS * 2**died)
        self.say(f"the process of {run_id} ended with {code} before its run did: see `maestro logs {run_id}`")

    def forget_children(self) -> None:
        """The fork server died: who still runs is known by the leases alone."""
        self.active.clear()

    def _resume(self) -> None:
        now = self.clock()
        if self.limit < 1 or now - self._looked < ORPHAN_SECONDS:
            return
        self._looked = now
        busy = {run_id for kind, run_id in self.active if kind != "dagster"}
        for run_id in [run_id for run_id in self._told if run_id not in busy]:
            if not self.board.is_open(run_id):  # its fork server died, or another process finished it
                self._tell_end(run_id)
        for run_id in self.board.orphaned():
            if self.running >= self.limit:
                return
            self._go_on(run_id, "goes on")

    def _go_on(self, run_id: str, word: str = "starts") -> None:
        """Gives the run a process, unless its last ones died and it has to wait, or to be given up."""
        if self.clock() < self._not_before.get(run_id, 0.0):
            return
        died = self.deaths.get(run_id, 0)
        if died >= MAX_DEATHS:
            self.say(f"{run_id} is closed: its process died {died} times")
            self._start(Job("close", run_id))
        else:
            self._start(Job("maestro", run_id))
            self._tell_start(run_id, word)

    def _tell_start(self, run_id: str, word: str) -> None:
        if run_id not in self._told and ("maestro", run_id) in self.active:
            self._told[run_id] = self.clock()
            self._untold[run_id] = word

    def _tell_starts(self) -> None:
        for run_id in list(self._untold):
            pid = self.active.get(("maestro", run_id), 0)
            try:
                held = bool(pid) and self.board.holds(run_id, pid)
            except MaestroError:  # the next pass asks again
                continue
            if held:
                self._say_start(run_id)

    def _say_start(self, run_id: str) -> None:
        if word := self._untold.pop(run_id, ""):
            self._tell(run_id, lambda view: start_line(view, word))

    def _tell_end(self, run_id: str) -> None:
        self._say_start(run_id)  # it was over before anybody looked
        self.deaths.pop(run_id, None)
        self._not_before.pop(run_id, None)
        begun = self._told.pop(run_id, None)
        seconds = None if begun is None else self.clock() - begun
        self._tell(run_id, lambda view: end_line(view, seconds))

    def _tell(self, run_id: str, line: Callable[[RunView], str]) -> None:
        """Telling is no reason to stop: the run's own record is elsewhere."""
        if self.look is not None:
            try:
                self.say(line(self.look(run_id)))
            except MaestroError as error:
                self.say(f"{run_id}: {error}")

    def _start(self, job: Job) -> None:
        key = (job.kind, job.id)
        if not any((kind, job.id) in self.active for kind in ("maestro", "close", "dagster")):
            if self.starter is None:
                return
            self.active[key] = 0
            self.starter.submit(job)
