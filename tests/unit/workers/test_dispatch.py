from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from maestro_dagster.engine.interface import RunView
from maestro_dagster.errors import JournalError
from maestro_dagster.workers.dispatch import (
    BLOCKED_SECONDS,
    EXIT_BLOCKED,
    EXIT_BUSY,
    FOREIGN_SECONDS,
    MAX_DEATHS,
    ORPHAN_SECONDS,
    Dispatcher,
    Requested,
)
from maestro_dagster.workers.zygote import ChildEvent, Job


@dataclass
class Board:
    waiting: list[Requested] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    open_runs: set[str] = field(default_factory=set)
    holders: dict[str, int] = field(default_factory=dict)

    def requested(self) -> list[Requested]:
        return self.waiting

    def orphaned(self) -> list[str]:
        return self.dead

    def is_open(self, run_id: str) -> bool:
        return run_id in self.open_runs

    def holds(self, run_id: str, pid: int) -> bool:
        return self.holders.get(run_id) == pid


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

    def hold(self, run_id: str) -> None:
        """Its process began, and took the run."""
        self.dispatcher.handle(ChildEvent("started", Job("maestro", run_id), 7))
        self.board.holders[run_id] = 7

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


def test_a_run_that_another_loop_took_is_no_death(bench: Bench) -> None:
    bench.board.waiting, bench.board.open_runs = [push("a")], {"a"}
    for _ in range(MAX_DEATHS * 2):
        bench.dispatcher.fill()
        assert bench.started() == [("maestro", "a")]
        bench.end(Job("maestro", "a"), EXIT_BUSY)
        bench.dispatcher.fill()
        assert bench.started() == [], "the other one gets a moment"
        bench.now += ORPHAN_SECONDS + 1
    assert bench.dispatcher.deaths == {}


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


VIEW = RunView(
    run_id="a",
    flow="release",
    flow_version="1.0.0",
    flow_digest="sha256:0",
    status="running",
    cause="push",
    partition="shop@refs/heads/main",
    git={},
    requested_at=999.0,
    started_at=None,
    finished_at=None,
    steps=(),
    evidence=None,
    decision=None,
    error=None,
)


@dataclass
class News:
    """What the dispatcher says of the run `a`, whose view is `view`."""

    bench: Bench
    said: list[str] = field(default_factory=list)
    view: RunView = VIEW

    def look(self, run_id: str) -> RunView:
        if run_id != "a":
            raise JournalError(f"no run {run_id}")
        return self.view

    def end(self, **changes: Any) -> str:
        self.view = replace(self.view, **changes)
        self.bench.board.open_runs.clear()
        self.bench.end(Job("maestro", "a"), 1)
        return self.said[-1]


@pytest.fixture
def news(bench: Bench) -> News:
    made = News(bench)
    bench.dispatcher.look, bench.dispatcher.say = made.look, made.said.append
    bench.board.waiting, bench.board.open_runs = [push("a")], {"a"}
    bench.dispatcher.fill()
    bench.board.waiting = []
    bench.hold("a")
    bench.dispatcher.fill()
    return made


def test_a_start_is_told_by_the_loop_that_has_the_run(bench: Bench) -> None:
    """Loops on one database all try; those that lose say nothing, neither of the start nor of the end."""
    made = News(bench)
    bench.dispatcher.look, bench.dispatcher.say = made.look, made.said.append
    bench.board.waiting, bench.board.open_runs = [push("a")], {"a"}
    bench.dispatcher.fill()
    bench.dispatcher.handle(ChildEvent("started", Job("maestro", "a"), 7))
    bench.board.holders["a"] = 8
    bench.dispatcher.fill()
    assert made.said == []
    bench.board.open_runs.clear()  # the other one was quick
    bench.end(Job("maestro", "a"), EXIT_BUSY)
    bench.dispatcher.fill()
    assert made.said == []
    assert bench.dispatcher.running == 0


def test_a_run_that_is_over_at_once_is_told_whole(bench: Bench) -> None:
    made = News(bench)
    bench.dispatcher.look, bench.dispatcher.say = made.look, made.said.append
    bench.board.waiting, bench.board.open_runs = [push("a")], {"a"}
    bench.dispatcher.fill()
    made.end(status="succeeded", started_at=1000.0, finished_at=1000.5)
    assert made.said == [
        "release a starts, shop@refs/heads/main",
        "release a succeeded after 0.5 s, shop@refs/heads/main",
    ]


def test_one_line_says_that_a_run_starts_and_one_that_it_ended(news: News) -> None:
    news.bench.dispatcher.fill()
    assert news.said == ["release a starts, shop@refs/heads/main"]
    assert news.end(status="succeeded", started_at=1000.0, finished_at=1002.25) == (
        "release a succeeded after 2.2 s, shop@refs/heads/main"
    )
    assert len(news.said) == 2


def test_a_run_without_a_push_has_no_place(news: News) -> None:
    news.bench.now += 3
    assert news.end(status="cancelled", partition=None) == "release a cancelled after 3.0 s"


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"status": "failed", "error": {"fact": "pytest failed: boom\nmore\nlines"}}, "pytest failed: boom"),
        ({"status": "failed", "error": {"fact": "red \x1b[31m\u202e"}}, "red ?[31m?"),
        (
            {
                "status": "denied",
                "decision": {
                    "verdicts": [{"violations": []}, {"violations": [{"message": "too dear"}]}],
                },
            },
            "too dear",
        ),
    ],
)
def test_the_end_of_a_run_that_did_not_succeed_has_its_first_error(
    news: News, changes: dict[str, Any], fact: str
) -> None:
    assert news.end(**changes).partition(": ")[2] == fact


def test_a_run_that_was_taken_up_again_is_not_told_as_a_start(bench: Bench) -> None:
    made = News(bench)
    bench.dispatcher.look, bench.dispatcher.say = made.look, made.said.append
    bench.board.dead, bench.board.open_runs = ["a"], {"a"}
    bench.dispatcher.fill()
    bench.hold("a")
    bench.dispatcher.fill()
    assert made.said == ["release a goes on, shop@refs/heads/main"]
    bench.end(Job("maestro", "a"), -9)
    bench.dispatcher.fill()
    assert made.said[1:] == ["the process of a ended with -9 before its run did: see `maestro logs a`"]


def test_the_end_is_told_also_when_the_fork_server_died_meanwhile(news: News) -> None:
    news.bench.dispatcher.forget_children()
    news.bench.now += 10
    news.bench.dispatcher.fill()
    assert len(news.said) == 1
    news.bench.board.open_runs.clear()
    news.view = replace(news.view, status="succeeded")
    news.bench.now += 10
    news.bench.dispatcher.fill()
    news.bench.dispatcher.fill()
    assert news.said[1:] == ["release a succeeded after 20.0 s, shop@refs/heads/main"]


def test_a_run_that_cannot_be_looked_at_stops_nothing(news: News) -> None:
    news.bench.board.waiting = [push("b"), push("c")]
    news.bench.dispatcher.limit = 3
    news.bench.dispatcher.fill()
    news.bench.hold("b")
    news.bench.hold("c")
    news.bench.dispatcher.fill()
    assert news.said[1:] == ["b: no run b", "c: no run c"]
    assert news.bench.started()[1:] == [("maestro", "b"), ("maestro", "c")]
