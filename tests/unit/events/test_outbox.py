"""The outbox: what forges shall show, kept on both databases until they show it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.database.interface import Database
from maestro_dagster.database.postgres import PostgresDatabase
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.errors import EventError
from maestro_dagster.events.figure import Waiting, count_reports, read_waiting_reports
from maestro_dagster.events.outbox import TABLES, WORDING, Outbox
from maestro_dagster.events.report import RunReport, make_wishes


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    found: Database = SqliteDatabase(tmp_path / "outbox.sqlite", tables=TABLES, wording=WORDING)
    if request.param == "postgres":
        found = PostgresDatabase(request.getfixturevalue("postgres_server"), "outbox", wording=WORDING)
        with found.write() as connection:
            for table in ("report", "watched_run"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
    yield found
    found.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


def report(standing: str = "running", **changes: Any) -> RunReport:
    given: dict[str, Any] = {
        "repository": "shop", "run_id": "r1", "flow": "build", "standing": standing, "sha": "a" * 40,
        "ref": "refs/heads/main", "requested_at": 10.0,
    }  # fmt: skip
    return RunReport(**{**given, **changes})


def put(outbox: Outbox, *reports: RunReport, now: float = 100.0) -> int:
    return sum(outbox.put(make_wishes(each), {}, now) for each in reports)


FAILURE = EventError("a bad moment", code="report-unavailable")


def test_what_is_wished_for_is_claimed_once_and_settled(outbox: Outbox) -> None:
    assert put(outbox, report()) == 1
    assert not outbox.has_due(99.0)
    assert outbox.has_due(100.0)
    (entry,) = outbox.claim("me", 10, 100.0, 60.0)
    assert (entry.target, entry.revision, entry.unsure) == (f"status:shop:{'a' * 40}:maestro/build", 1, False)
    assert outbox.claim("other", 10, 100.0, 60.0) == []
    outbox.settle("me", entry, {"id": 3}, 101.0)
    assert outbox.counts() == {"due": 0, "sent": 1, "given-up": 0, "no-release": 0}
    (entry,) = outbox.entries()
    assert (entry.state, entry.sent, entry.known, entry.sent_at) == ("sent", 1, {"id": 3}, 101.0)


def test_news_that_came_while_it_was_sent_are_due(outbox: Outbox) -> None:
    put(outbox, report())
    (entry,) = outbox.claim("me", 10, 100.0, 60.0)
    put(outbox, report("succeeded"))
    outbox.settle("me", entry, {"id": 3}, 101.0)
    (entry,) = outbox.claim("me", 10, 101.0, 60.0)
    assert (entry.revision, entry.known, entry.body["report"]["standing"]) == (2, {"id": 3}, "succeeded")


def test_the_same_news_change_nothing(outbox: Outbox) -> None:
    assert put(outbox, report(), report()) == 1
    assert outbox.entries()[0].revision == 1


def test_a_claim_runs_out_and_its_owner_cannot_settle_any_more(outbox: Outbox) -> None:
    put(outbox, report())
    (entry,) = outbox.claim("dead", 10, 100.0, 60.0)
    (again,) = outbox.claim("me", 10, 161.0, 60.0)
    assert again.unsure
    outbox.settle("dead", entry, {"id": "of the dead"}, 162.0)
    assert outbox.counts()["due"] == 1
    outbox.settle("me", again, {"id": 1}, 163.0)
    assert outbox.entries()[0].known == {"id": 1}


def test_a_renewed_claim_is_kept(outbox: Outbox) -> None:
    put(outbox, report())
    outbox.claim("me", 10, 100.0, 60.0)
    outbox.renew("me", 500.0)
    assert outbox.claim("other", 10, 400.0, 60.0) == []
    outbox.release("me")
    assert len(outbox.claim("other", 10, 400.0, 60.0)) == 1


def test_a_failure_waits_and_a_last_one_gives_up(outbox: Outbox) -> None:
    put(outbox, report())
    (entry,) = outbox.claim("me", 10, 100.0, 60.0)
    outbox.postpone("me", entry, FAILURE, due_at=200.0, unsure=False, give_up=False)
    assert outbox.claim("me", 10, 199.0, 60.0) == []
    (entry,) = outbox.claim("me", 10, 200.0, 60.0)
    assert (entry.tries, entry.unsure) == (1, False)
    assert entry.error is not None
    assert entry.error["code"] == "report-unavailable"
    outbox.postpone("me", entry, FAILURE, due_at=300.0, unsure=True, give_up=True)
    assert outbox.counts()["given-up"] == 1
    assert outbox.claim("me", 10, 9000.0, 60.0) == []
    assert outbox.retry(9000.0) == 1
    (entry,) = outbox.claim("me", 10, 9000.0, 60.0)
    assert (entry.tries, entry.unsure) == (0, True)


def test_news_wake_what_was_given_up_and_keep_the_pause_of_what_waits(outbox: Outbox) -> None:
    put(outbox, report(), report(run_id="r2", flow="other"))
    for entry in outbox.claim("me", 10, 100.0, 60.0):
        give_up = entry.body["report"]["flow"] == "other"
        outbox.postpone("me", entry, FAILURE, due_at=500.0, unsure=False, give_up=give_up)
    put(outbox, report("failed"), report("failed", run_id="r2", flow="other"), now=110.0)
    assert [entry.body["report"]["flow"] for entry in outbox.claim("me", 10, 111.0, 60.0)] == ["other"]
    assert "build" in [entry.body["report"]["flow"] for entry in outbox.claim("me", 10, 500.0, 60.0)]


def test_a_forge_that_wants_a_pause_is_left_alone(outbox: Outbox) -> None:
    put(outbox, report(), report(flow="two"), report(repository="else"))
    claimed = outbox.claim("me", 10, 100.0, 60.0)
    assert len(claimed) == 3
    outbox.defer("me", "shop", 700.0)
    outbox.release("me")
    assert [entry.repository for entry in outbox.claim("me", 10, 200.0, 60.0)] == ["else"]
    assert [entry.tries for entry in outbox.claim("me", 10, 700.0, 60.0)] == [0, 0, 0]


def test_runs_are_watched_once_until_they_have_ended(outbox: Outbox) -> None:
    assert outbox.watch([("r1", "shop"), ("r2", "shop")], 10.0) == 2
    assert outbox.watch([("r2", "shop")], 11.0) == 0
    outbox.put(make_wishes(report("succeeded")), {"r1": ("ended", True), "r2": ("running", False)}, 12.0)
    assert outbox.watched() == [("r2", "shop", "running", 10.0)]
    assert outbox.watch([("r1", "shop")], 13.0) == 0


def test_what_is_old_is_dropped_and_what_waits_is_not(outbox: Outbox) -> None:
    put(outbox, report(), now=10.0)
    (entry,) = outbox.claim("me", 10, 10.0, 60.0)
    outbox.settle("me", entry, {}, 11.0)
    put(outbox, report(flow="waits"), now=10.0)
    assert outbox.forget(100.0) == 1
    assert [entry.body["report"]["flow"] for entry in outbox.entries()] == ["waits"]


def test_many_claim_and_each_row_goes_to_one(outbox: Outbox) -> None:
    put(outbox, *(report(flow=f"f{index}") for index in range(60)))
    found: list[str] = []
    lock = threading.Lock()

    def take(owner: str) -> None:
        while claimed := outbox.claim(owner, 3, 100.0, 60.0):
            with lock:
                found.extend(entry.target for entry in claimed)

    threads = [threading.Thread(target=take, args=(f"o{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert len(set(found)) == 60


def test_words_of_others_come_back_as_they_were(outbox: Outbox) -> None:
    problem = "a\x00b \ud800 \N{SNOWMAN} '; DROP TABLE report; -- %s ?"
    put(outbox, report("failed", problem=problem))
    assert outbox.entries()[0].body["report"]["problem"] == problem


NO_RELEASE = EventError("no release", code="report-no-release")


def release(outbox: Outbox, *tags: str) -> None:
    for tag in tags:
        put(outbox, report("succeeded", ref=f"refs/tags/{tag}", run_id=f"r-{tag}", evidence="sha256:0"))
    for entry in outbox.claim("me", 100, 100.0, 60.0):
        if entry.kind == "status":
            outbox.settle("me", entry, {}, 100.0)


def releases(outbox: Outbox) -> dict[str, str]:
    return {entry.body["tag"]: entry.state for entry in outbox.entries() if entry.kind == "release"}


def test_a_tag_without_a_release_is_no_queue_and_has_an_end_of_its_own(outbox: Outbox) -> None:
    release(outbox, "v1")
    (entry,) = (each for each in outbox.entries() if each.kind == "release")
    assert outbox.database.run_read(read_waiting_reports).count == 1
    outbox.postpone("me", entry, NO_RELEASE, due_at=200.0, unsure=False, give_up=False)
    assert outbox.database.run_read(read_waiting_reports) == Waiting(0, None), "nobody can do anything"
    assert outbox.counts()["due"] == 1
    assert len(outbox.claim("me", 10, 200.0, 60.0)) == 1
    outbox.postpone("me", entry, NO_RELEASE, due_at=300.0, unsure=False, give_up=True)
    assert outbox.counts() == {"due": 0, "sent": 1, "given-up": 0, "no-release": 1}
    assert outbox.database.run_read(count_reports)["shop", "given-up"] == 0
    assert outbox.retry(400.0) == 1
    assert releases(outbox) == {"v1": "due"}


@pytest.mark.parametrize("give_up", [False, True])
def test_a_release_is_tried_as_soon_as_it_is_told_of(outbox: Outbox, give_up: bool) -> None:
    release(outbox, "v1", "v_", "v1.1")
    for entry in outbox.entries():
        if entry.kind == "release":
            outbox.postpone("me", entry, NO_RELEASE, due_at=900.0, unsure=False, give_up=give_up)
    assert outbox.hurry("shop", "v_", 300.0) == 1
    assert outbox.hurry("other", "v1", 300.0) == 0
    assert [entry.body["tag"] for entry in outbox.claim("me", 10, 300.0, 60.0)] == ["v_"]
