from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from maestro_dagster.workers.dispatch import (
    BLOCKED_SECONDS,
    EXIT_BLOCKED,
    FOREIGN_SECONDS,
    MAX_DEATHS,
    Dispatcher,
    Requested,
)
from maestro_dagster.workers.zygote import ChildEvent, Job


@dataclass
class Board:
    waiting: list[Requested] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    open_runs: set[str] = field(default_factory=set)

    def requested(self) -> list[Requested]:
        return self.waiting

    def orphaned(self) -> list[str]:
        return self.dead

    def is_open(self, run_id: str) -> bool:
        return run_id in self.open_runs


@dataclass
class Starter:
    jobs: list[Job] = field(default_factory=list)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)


@dataclass
class Bench:
    board: Board
    starter: Starter
    dispatcher: Dispatcher
    now: float = 1000.0

    def end(self, job: Job, code: int) -> None:
        self.dispatcher.handle(ChildEvent("ended", job, 7, code))

    def started(self) -> list[tuple[str, str]]:
        found = [(job.kind, job.id) for job in self.starter.jobs]
        self.starter.jobs.clear()
        return found


@pytest.fixture
def bench() -> Bench:
    board, starter = Board(), Starter()
    made = Bench(board, starter, Dispatcher(board, starter, 2, lambda _: None))
    made.dispatcher.clock = lambda: made.now
    return made


def push(run_id: str) -> Requested:
    return Requested(run_id, "push", 1000.0)


def test_as_many_runs_as_allowed_are_started_in_order(bench: Bench) -> None:
    bench.board.waiting = [push("a"), push("b"), push("c")]
    bench.dispatcher.fill()
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "a"), ("maestro", "b")]
    bench.board.waiting = [push("c")]
    bench.end(Job("maestro", "a"), 0)
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "c")]


def test_a_limit_of_zero_starts_nothing_and_resumes_nothing(bench: Bench) -> None:
    bench.dispatcher.limit = 0
    bench.board.waiting, bench.board.dead = [push("a")], ["b"]
    bench.dispatcher.fill()
    assert bench.started() == []


def test_runs_of_the_command_line_are_left_to_their_own_process_for_a_while(bench: Bench) -> None:
    bench.board.waiting = [Requested("mine", "manual", 1000.0)]
    bench.dispatcher.fill()
    assert bench.started() == []
    bench.now += FOREIGN_SECONDS + 1
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "mine")]


def test_a_dead_run_is_resumed_at_once_then_with_patience_and_closed_in_the_end(bench: Bench) -> None:
    bench.board.dead, bench.board.open_runs = ["a"], {"a"}
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "a")]
    bench.end(Job("maestro", "a"), -9)
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "a")], "the first death is taken up at once"
    for _ in range(MAX_DEATHS - 1):
        bench.end(Job("maestro", "a"), -9)
        bench.dispatcher.fill()
        assert bench.started() == [], "later ones wait"
        bench.now += 60
        bench.dispatcher.fill()
        last = bench.started()
    assert last == [("close", "a")]
    bench.board.open_runs.clear()
    bench.end(Job("close", "a"), 1)
    assert bench.dispatcher.deaths == {}


def test_a_run_that_waits_for_the_operator_is_never_given_up(bench: Bench) -> None:
    bench.board.waiting, bench.board.open_runs = [push("a")], {"a"}
    for _ in range(MAX_DEATHS * 2):
        bench.dispatcher.fill()
        assert bench.started() == [("maestro", "a")]
        bench.end(Job("maestro", "a"), EXIT_BLOCKED)
        bench.dispatcher.fill()
        assert bench.started() == []
        bench.now += BLOCKED_SECONDS + 1


def test_a_run_is_never_started_twice_while_its_process_lives(bench: Bench) -> None:
    bench.board.waiting, bench.board.dead = [push("a")], ["a"]
    bench.dispatcher.fill()
    bench.now += 10
    bench.dispatcher.fill()
    assert bench.started() == [("maestro", "a")]


def test_runs_of_the_ui_wait_for_nobody(bench: Bench) -> None:
    bench.board.waiting = [push("a"), push("b")]
    bench.dispatcher.fill()
    bench.dispatcher.launch("x")
    assert bench.started()[-1] == ("dagster", "x")
