"""Every store of budgets does the same arithmetic: for many callers at once, over repetitions and deaths."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import budget_support as support
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from maestro_dagster.costs.account import Account, Freeze, Spent, Tally, action_bits
from maestro_dagster.costs.counter import Counter, MemoryCounter
from maestro_dagster.costs.counter_postgres import PostgresCounter
from maestro_dagster.costs.counter_sqlite import SqliteCounter
from maestro_dagster.errors import CostError

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
Open = Callable[[], Counter]
account, open_counter = support.account, support.open_counter


@pytest.fixture(scope="module")
def postgres(postgres_server: str) -> str:
    """The URL of a real server."""
    return postgres_server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store anew each time; in memory there is only one."""
    opened: list[Counter] = []
    one = MemoryCounter()
    place = str(tmp_path / "budgets.sqlite")
    if request.param == "postgres":
        place = request.getfixturevalue("postgres")
        support.empty(place)

    def open_one() -> Counter:
        opened.append(one if request.param == "memory" else open_counter(place))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_a_reservation_takes_from_every_account_or_from_none(opener: Open) -> None:
    counter = opener()
    wide, narrow = account("t#month:2026-11", 1000), account("t/p/f/r#run", 100)
    counter.reserve([wide, narrow], 60, 5, "a", run_id="r")
    with pytest.raises(CostError) as caught:
        counter.reserve([wide, narrow], 41, 5, "b", run_id="r")
    assert caught.value.error_code == "budget-exhausted"
    assert counter.read([wide.key, narrow.key]) == {
        wide.key: Tally(0, 60, 0, 5),
        narrow.key: Tally(0, 60, 0, 5),
    }
    counter.reserve([wide, narrow], 40, 0, "c", run_id="r")  # to the last nano-dollar
    counter.release("c", run_id="r", keys=[wide.key, narrow.key])
    assert counter.read([narrow.key])[narrow.key].reserved_nano == 60


def test_what_stands_in_the_store_is_found_by_the_next_process(opener: Open) -> None:
    limits = [account("t#month:2026-11", 100)]
    opener().reserve(limits, 60, 1, "a", run_id="r")
    opener().settle(limits, "a", 55, 2, run_id="r")
    assert opener().read([limits[0].key])[limits[0].key] == Tally(55, 0, 2, 0)


def test_a_repetition_counts_once(opener: Open) -> None:
    counter = opener()
    limits = [account("t#month:2026-11", 100)]
    for _ in range(3):
        counter.reserve(limits, 60, 0, "a", run_id="r")
    for _ in range(3):
        counter.settle(limits, "a", 55, 0, run_id="r")
    counter.reserve(limits, 60, 0, "a", run_id="r")  # it was settled: nothing is held again
    counter.release("a", run_id="r", keys=[limits[0].key])
    assert counter.read([limits[0].key])[limits[0].key][:2] == (55, 0)


def test_more_spent_than_reserved_is_booked_as_it_is_and_stops_the_next(opener: Open) -> None:
    counter = opener()
    limits = [account("t#day:2026-11-03", 100)]
    counter.reserve(limits, 60, 0, "a", run_id="r")
    grant = counter.settle(limits, "a", 130, 0, run_id="r")
    assert [act.action for act in grant.acts] == ["freeze"]
    assert counter.read([limits[0].key])[limits[0].key].spent_nano == 130
    with pytest.raises(CostError) as caught:
        counter.reserve(limits, 1, 0, "b", run_id="r")
    assert "there is 0 USD left" in caught.value.fact
    counter.reserve(limits, 0, 0, "c", run_id="r")  # what is free may end


def test_a_settlement_without_its_reservation_is_booked(opener: Open) -> None:
    counter = opener()
    limits = [account("t#day:2026-11-03", 100)]
    counter.settle(limits, "a", 7, 3, run_id="r", unknown=1)
    assert counter.read([limits[0].key])[limits[0].key][:5] == (7, 0, 3, 0, 1)


def test_each_threshold_is_told_once_by_whoever_crosses_it(opener: Open) -> None:
    limits = [account("t#day:2026-11-03", 100, soft=10)]
    told = []
    for number, nano in enumerate((9, 1, 69, 1, 0, 15, 5)):
        grant = opener().settle(limits, str(number), nano, 0, run_id="r")
        told.append([act.action for act in grant.acts])
    assert told == [[], ["soft"], [], ["warn"], [], ["slow"], ["freeze"]]
    assert opener().reserve(limits, 0, 0, "z", run_id="r").actions == {
        "soft", "warn", "downgrade", "slow", "freeze"
    }  # fmt: skip
    bits = action_bits(["warn", "freeze"])
    assert opener().mark_alerted(limits[0].key, bits) == bits
    assert opener().mark_alerted(limits[0].key, bits | action_bits(["slow"])) == action_bits(["slow"])


def test_a_node_that_is_frozen_refuses_all_below_it_and_nothing_else(opener: Open) -> None:
    counter = opener()
    counter.freeze(Freeze("t/p", "it ran away", "ann", "2026-11-03T10:00:00Z"))
    with pytest.raises(CostError) as caught:
        counter.reserve([account("t/p/f/r#run", None)], 0, 0, "a", run_id="r")
    assert caught.value.error_code == "budget-frozen"
    assert "t/p is frozen since 2026-11-03T10:00:00Z by ann: it ran away" in caught.value.fact
    counter.reserve([account("t/pq/f/r#run", None)], 5, 0, "b", run_id="r2")
    assert [freeze.path for freeze in opener().list_frozen()] == ["t/p"]
    assert counter.thaw("t/p")
    assert not counter.thaw("t/p")
    counter.reserve([account("t/p/f/r#run", None)], 5, 0, "a", run_id="r")


def test_a_run_that_died_is_put_right_from_its_usage(opener: Open) -> None:
    counter = opener()
    month, run, free = account("t#month:2026-11", 1000), account("t/p/f/r#run", 1000), "t/p#month:2026-11"
    keys = (month.key, run.key)
    for name, owner in (("never", "dead"), ("done", "dead"), ("open", "dead"), ("going", "alive")):
        counter.reserve([month, run], 100, 10, name, run_id="r", owner=owner)
    usage = {
        "done": Spent((*keys, free), 30, 3),
        "open": Spent((*keys, free), 100, 0, settled=False),
        "lost": Spent((*keys, free), 5, 1, 1),
    }
    for _ in range(2):
        counter.reconcile("r", usage, live=["alive"])
        assert counter.read(keys)[month.key][:5] == (135, 100, 14, 10, 1)
        assert counter.read(keys)[run.key][:5] == (135, 100, 14, 10, 1)
    usage["going"] = Spent((*keys, free), 60, 6)
    for _ in range(2):
        opener().reconcile("r", usage, end=True)
        assert counter.list_tallies("t") == {
            month.key: Tally(195, 0, 20, 0, 1),
            free: Tally(195, 0, 20, 0, 1),  # nothing limits it: counted when the run has ended
        }
    counter.settle([month, run], "going", 60, 6, run_id="r")  # too late: the figures are final
    assert counter.read([month.key])[month.key].spent_nano == 195


def test_only_the_node_and_what_is_below_it_is_listed(opener: Open) -> None:
    counter = opener()
    names = ["t#day:d", "t/p#day:d", "t/p/f#day:d", "tt#day:d", "t-p#day:d", "t.x/p#day:d"]
    for number, name in enumerate(names):
        counter.settle([account(name, None)], str(number), 1, 0, run_id="r")
    assert sorted(counter.list_tallies("t")) == ["t#day:d", "t/p#day:d", "t/p/f#day:d"]
    assert sorted(counter.list_tallies("t/p")) == ["t/p#day:d", "t/p/f#day:d"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_many_callers_take_what_is_there_and_not_one_nano_more(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Callers of several processes, each with a run of its own, on one tenant that has not enough for all."""
    place = str(tmp_path / "budgets.sqlite") if kind == "sqlite" else request.getfixturevalue("postgres")
    if kind == "postgres":
        support.empty(place)
    processes, threads, each = (4, 250, 20) if SOAK else (4, 25, 3)
    asked = processes * threads * each
    limit = 7 * asked * 2 // 3 + 3  # not a multiple of 7: the rest is too little for one more
    open_counter(place).close()
    context = multiprocessing.get_context("fork")  # the support module has no importable name
    results = context.Queue()
    workers = [
        context.Process(target=support.spend, args=(place, number, threads, each, limit, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    granted, refused = (
        sum(pair) for pair in zip(*(results.get(timeout=500 if SOAK else 60) for _ in workers), strict=True)
    )
    for worker in workers:
        worker.join()
    tally = open_counter(place).read([support.TENANT])[support.TENANT]
    # Each caller reserves 8 and settles at 7: what is left in the end is less than one more reserve.
    assert tally.spent_nano == 7 * granted
    assert tally.reserved_nano == 0
    assert 0 <= limit - tally.spent_nano < 8 + 8 * processes * threads  # while others held their reserves
    assert granted + refused == asked
    leftover = open_counter(place)
    while limit - tally.spent_nano >= 8:  # nobody else is at work: never a refusal while enough is left
        leftover.reserve([account(support.TENANT, limit)], 8, 0, f"more{tally.spent_nano}", run_id="x")
        leftover.settle([account(support.TENANT, limit)], f"more{tally.spent_nano}", 7, 0, run_id="x")
        tally = leftover.read([support.TENANT])[support.TENANT]
    with pytest.raises(CostError):
        leftover.reserve([account(support.TENANT, limit)], 8, 0, "last", run_id="x")
    leftover.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_reserves_that_fit_exactly_are_all_granted(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Callers that together ask for exactly the limit: none may be refused, and nothing is left."""
    place = str(tmp_path / "budgets.sqlite") if kind == "sqlite" else request.getfixturevalue("postgres")
    if kind == "postgres":
        support.empty(place)
    count = 1000 if SOAK else 100
    limits = [account(support.TENANT, 7 * count), account("t/p#day:d", 7 * count)]
    counters = [open_counter(place) for _ in range(4)]
    refused: list[CostError] = []

    def call(number: int) -> None:
        try:
            counters[number % 4].reserve(limits, 7, 1, str(number), run_id=f"r{number}")
        except CostError as error:
            refused.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert counters[0].read([support.TENANT])[support.TENANT][:4] == (0, 7 * count, 0, count)
    with pytest.raises(CostError):
        counters[1].reserve(limits, 1, 0, "one more", run_id="r")
    for counter in counters:
        counter.close()


KEYS = ("t#month:m", "t/p#day:d", "t/p/f/r0#run", "t/p/f/r1#run")
LIMITS = {"t#month:m": 300, "t/p#day:d": 200, "t/p/f/r0#run": 120, "t/p/f/r1#run": None}
IDS = st.sampled_from([f"r{run}-{number}" for run in (0, 1) for number in range(6)])
NANO = st.integers(0, 90)


class Books(RuleBasedStateMachine):
    """A store against the simplest model: what each reservation holds or has spent, and nothing else."""

    open_counter: Open

    @initialize()
    def begin(self) -> None:
        self.counter = type(self).open_counter()
        self.held: dict[str, int] = {}
        self.spent: dict[str, int] = {}

    def accounts(self, name: str) -> list[Account]:
        return [account(key, LIMITS[key]) for key in (KEYS[0], KEYS[1], f"t/p/f/{name[:2]}#run")]

    def used(self, key: str) -> int:
        names = [name for name in {**self.held, **self.spent} if key in [a.key for a in self.accounts(name)]]
        return sum(self.held.get(name, 0) + self.spent.get(name, 0) for name in names)

    @rule(name=IDS, nano=NANO)
    def reserve(self, name: str, nano: int) -> None:
        fits = all(
            nano <= limit.hard_nano - self.used(limit.key) or nano == 0
            for limit in self.accounts(name)
            if limit.hard_nano is not None
        )
        known = name in self.held or name in self.spent
        try:
            self.counter.reserve(self.accounts(name), nano, 0, name, run_id=name[:2], owner="me")
        except CostError:
            assert not fits
            assert not known
        else:
            assert fits or known
            if not known:
                self.held[name] = nano

    @rule(name=IDS, nano=NANO)
    def settle(self, name: str, nano: int) -> None:
        self.counter.settle(self.accounts(name), name, nano, 0, run_id=name[:2])
        if name not in self.spent:
            self.held.pop(name, None)
            self.spent[name] = nano

    @rule(name=IDS)
    def release(self, name: str) -> None:
        keys = [each.key for each in self.accounts(name)]
        self.counter.release(name, run_id=name[:2], keys=keys)
        self.held.pop(name, None)

    @rule(run=st.sampled_from(["r0", "r1"]), alive=st.booleans())
    def die_and_resume(self, run: str, alive: bool) -> None:
        usage = {
            name: Spent(tuple(each.key for each in self.accounts(name)), nano)
            for name, nano in self.spent.items()
            if name[:2] == run
        }
        self.counter.reconcile(run, usage, live=["me"] if alive else [])
        if not alive:
            self.held = {name: nano for name, nano in self.held.items() if name[:2] != run}

    @rule()
    def reopen(self) -> None:
        self.counter = type(self).open_counter()

    @invariant()
    def stand_as_the_model_does(self) -> None:
        if not hasattr(self, "counter"):
            return
        tallies = self.counter.read(KEYS)
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for column, amounts in ((0, self.spent), (1, self.held)):
            for name, nano in amounts.items():
                for each in self.accounts(name):
                    sums[each.key][column] += nano
        assert {key: list(tallies[key][:2]) for key in KEYS} == {key: sums[key] for key in KEYS}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_any_order_of_bookings_stands_as_a_simple_model_does(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    place: list[str] = []
    opened: list[Counter] = []

    class Machine(Books):
        @staticmethod
        def open_counter() -> Counter:
            opened.append(memory[0] if kind == "memory" else open_counter(place[0]))
            return opened[-1]

        @initialize()
        def begin(self) -> None:
            for each in opened:
                each.close()
            opened.clear()
            memory[:] = [MemoryCounter()]
            if kind == "postgres":
                place[:] = [request.getfixturevalue("postgres")]
                support.empty(place[0])
            else:
                place[:] = [str(tmp_path_factory.mktemp("books") / "budgets.sqlite")]
            super().begin()

    memory: list[MemoryCounter] = []
    few, many = {"memory": (25, 1200), "sqlite": (8, 300), "postgres": (4, 160)}[kind]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=many if SOAK else few,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for each in opened:
        each.close()


# What is particular to the file


def spend_some(path: Path) -> Account:
    limit: Account = account("t#month:2026-11", 100)
    counter = SqliteCounter(path)
    counter.reserve([limit], 10, 0, "a", run_id="r")
    counter.close()
    return limit


def test_looking_makes_no_file(tmp_path: Path) -> None:
    counter = SqliteCounter(tmp_path / "home" / "budgets.sqlite")
    assert counter.read(["t#day:d"]) == {"t#day:d": Tally()}
    assert counter.list_tallies("t") == {}
    assert counter.list_frozen() == ()
    assert counter.check() == "nothing was counted against a budget yet"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("damage", [b"", b"no database at all, but some text that is longer than a header"])
def test_a_file_that_is_damaged_is_said_and_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "budgets.sqlite"
    limit = spend_some(path)
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    path.write_bytes(damage)
    with pytest.raises(CostError) as caught:
        SqliteCounter(path).reserve([limit], 1, 0, "b", run_id="r")
    assert caught.value.error_code == ("budget-counter-corrupt" if damage else "budget-counter-lost")
    assert str(path) in caught.value.place
    assert "maestro cost budget recount" in caught.value.remedy
    assert path.read_bytes() == damage


def test_a_page_that_is_overwritten_is_noticed_before_anything_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite"
    limit = spend_some(path)
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(bytes(data))
    with pytest.raises(CostError) as caught:
        SqliteCounter(path).reserve([limit], 1, 0, "b", run_id="r")
    assert caught.value.error_code == "budget-counter-corrupt"


def test_a_file_that_is_gone_stops_spending_until_it_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite"
    limit = spend_some(path)
    path.unlink()
    lost = SqliteCounter(path)
    for use in (
        lambda: lost.reserve([limit], 1, 0, "b", run_id="r"),
        lambda: lost.read([limit.key]),
        lambda: lost.list_tallies("t"),
        lost.list_frozen,
        lost.check,
    ):
        with pytest.raises(CostError) as caught:
            use()
        assert caught.value.error_code == "budget-counter-lost"
    anew = SqliteCounter(path, anew=True)
    anew.restore({limit.key: Tally(spent_nano=95)})
    anew.close()
    again = SqliteCounter(path)
    again.reserve([limit], 5, 0, "b", run_id="r")
    again.restore({limit.key: Tally(spent_nano=90)})
    assert again.read([limit.key])[limit.key][:2] == (90, 5)
    again.close()


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id=7")
    connection.execute("CREATE TABLE precious (x)")
    connection.commit()
    connection.close()
    with pytest.raises(CostError) as caught:
        SqliteCounter(path).read(["t#day:d"])
    assert caught.value.error_code == "budget-counter-foreign"


def test_a_forked_child_counts_through_a_connection_of_its_own(tmp_path: Path) -> None:
    counter = SqliteCounter(tmp_path / "budgets.sqlite")
    limits = [account("t#day:d", 100)]
    counter.reserve(limits, 10, 0, "a", run_id="r")
    child = os.fork()
    if not child:
        counter.reserve(limits, 10, 0, "b", run_id="r")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    counter.reserve(limits, 80, 0, "c", run_id="r")
    assert counter.read([limits[0].key])[limits[0].key].reserved_nano == 100
    counter.close()


def test_a_caller_that_is_killed_leaves_its_reserve_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite"
    limit = account("t/p/f/r#run", 100)
    child = os.fork()
    if not child:
        SqliteCounter(path).reserve([limit], 70, 0, "a", run_id="r", owner="child")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    counter = SqliteCounter(path)
    with pytest.raises(CostError):
        counter.reserve([limit], 50, 0, "b", run_id="r")
    counter.reconcile("r", {}, live=["another"])
    counter.reserve([limit], 50, 0, "b", run_id="r")
    counter.close()


def test_a_database_that_is_not_there_is_said_without_its_password() -> None:
    counter = PostgresCounter("postgresql://ann:hunter22@127.0.0.1:1/budgets")
    with pytest.raises(CostError) as caught:
        counter.read(["t#day:d"])
    assert caught.value.error_code == "budget-counter-unavailable"
    assert caught.value.place == "postgresql://127.0.0.1:1/budgets"
    assert "hunter22" not in str(caught.value.to_json())


def test_many_who_come_first_at_once_lose_nothing(tmp_path: Path) -> None:
    """Whoever comes between the file's making and its first content must not take it for lost."""
    for turn in range(20):
        counters = [SqliteCounter(tmp_path / str(turn) / "budgets.sqlite") for _ in range(8)]
        gate, wrong = threading.Barrier(len(counters)), list[Exception]()

        def call(
            counter: SqliteCounter, number: int, gate: threading.Barrier, wrong: list[Exception]
        ) -> None:
            gate.wait()
            try:
                counter.read(["t#day:d"])
                counter.reserve([account("t#day:d", 100)], 1, 0, str(number), run_id="r")
            except CostError as error:
                wrong.append(error)

        threads = [
            threading.Thread(target=call, args=(counter, number, gate, wrong))
            for number, counter in enumerate(counters)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert counters[0].read(["t#day:d"])["t#day:d"].reserved_nano == len(counters)
        for counter in counters:
            counter.close()
