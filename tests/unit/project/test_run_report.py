"""From the journal to the outbox: each run of a reported repository, once, and again when it changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.errors import JournalError
from maestro_dagster.events.outbox import TABLES, WORDING, Outbox
from maestro_dagster.project.run_report import Collector

CLONES = {"/srv/shop.git": "shop"}
NOW = 1_800_000_000.0
SHA, DIGEST = "a" * 40, "sha256:" + "b" * 64


def make_row(run_id: str, **changes: Any) -> RunRow:
    row = RunRow(
        run_id=run_id, flow="build", flow_version="1.0.0", flow_digest="sha256:0", params={},
        git={"repository": "/srv/shop.git", "sha": SHA, "ref": "refs/heads/main"}, partition=None,
        cause="push", actor="", budget_nano=None, region=None, reuse_from=None, selection=None,
        status="requested", requested_at=NOW, started_at=None, finished_at=None, decision=None, error=None,
        cancel=None, dagster_runs=(), evidence_path=None, evidence_digest=None,
    )  # fmt: skip
    return replace(row, **changes)


class Book:
    """A journal: newest runs first."""

    def __init__(self) -> None:
        self.rows: dict[str, RunRow] = {}
        self.looks = 0

    def change(self, run_id: str, **changes: Any) -> None:
        self.rows[run_id] = replace(self.rows[run_id], **changes)

    def runs(self, limit: int = 50) -> list[RunRow]:
        return list(reversed(self.rows.values()))[:limit]

    def run(self, run_id: str) -> RunRow:
        self.looks += 1
        if run_id not in self.rows:
            raise JournalError("no such run", code="run-unknown")
        return self.rows[run_id]

    def statuses(self, status: str) -> list[tuple[str, bool]]:
        return [(row.run_id, False) for row in self.rows.values() if row.status == status]

    def steps(self, run_id: str) -> list[StepRow]:
        return [
            StepRow("late", "pkg:a/b@1.0.0", "failed", started_at=2.0, cost_nano=5,
                    error={"fact": "3 tests failed"}),
            StepRow("early", "pkg:a/b@1.0.0", "done", started_at=1.0, cost_nano=7),
            StepRow("early", "pkg:a/b@1.0.0", "done", iteration=0, started_at=1.0, cost_nano=900),
            StepRow("never", "pkg:a/b@1.0.0", "skipped"),
        ]  # fmt: skip


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(SqliteDatabase(tmp_path / "outbox.sqlite", tables=TABLES, wording=WORDING))
    yield found
    found.close()


@pytest.fixture
def book() -> Book:
    return Book()


def collector_of(book: Book, outbox: Outbox, now: float = NOW) -> Collector:
    return Collector(book, outbox, public_url="https://maestro.example/", clock=lambda: now)


def shown(outbox: Outbox) -> list[tuple[str, str]]:
    rows = [entry.body["report"] for entry in outbox.entries() if entry.kind == "status"]
    return sorted((row["run_id"], row["standing"]) for row in rows)


def test_a_run_is_told_of_when_it_changes(book: Book, outbox: Outbox) -> None:
    collector = collector_of(book, outbox)
    book.rows["r1"] = make_row("r1")
    assert collector.collect(CLONES) == 1
    assert collector.collect(CLONES) == 0
    book.change("r1", status="running", started_at=NOW, dagster_runs=("d1",))
    assert collector.collect(CLONES) == 1
    book.change("r1", status="failed", finished_at=NOW)
    assert collector.collect(CLONES) == 0  # its evidence is being made
    book.change("r1", evidence_digest=DIGEST)
    assert collector.collect(CLONES) == 1
    (entry,) = outbox.entries()
    told = entry.body["report"]
    assert [step["step"] for step in told["steps"]] == ["early", "late", "never"]
    assert (told["cost_nano"], told["evidence"], told["problem"]) == (12, DIGEST, "late: 3 tests failed")
    assert told["url"] == "https://maestro.example/dagster/runs/d1"
    looks = book.looks
    assert collector.collect(CLONES) == 0
    assert book.looks == looks  # what has ended is not looked at again
    assert outbox.watched() == []


def test_runs_of_others_are_not_told_of(book: Book, outbox: Outbox) -> None:
    book.rows["r1"] = make_row("r1", git={})
    book.rows["r2"] = make_row("r2", git={"repository": "/srv/other.git", "sha": SHA})
    assert collector_of(book, outbox).collect(CLONES) == 0
    assert collector_of(book, outbox).collect({}) == 0
    assert outbox.entries() == []


def test_a_run_without_evidence_has_not_succeeded(book: Book, outbox: Outbox) -> None:
    book.rows["r1"] = make_row("r1", status="succeeded", finished_at=NOW)
    assert collector_of(book, outbox, NOW + 50).collect(CLONES) == 0
    assert collector_of(book, outbox, NOW + 70).collect(CLONES) == 1
    assert shown(outbox) == [("r1", "failed")]
    book.change("r1", evidence_digest=DIGEST)
    assert collector_of(book, outbox, NOW + 90).collect(CLONES) == 1
    assert shown(outbox) == [("r1", "succeeded")]


@pytest.mark.parametrize("many", [7, 8, 9, 200])
def test_many_runs_between_two_looks_are_all_found(book: Book, outbox: Outbox, many: int) -> None:
    collector = collector_of(book, outbox)
    for batch in range(3):
        for number in range(many):
            run_id = f"r{batch}-{number}"
            book.rows[run_id] = make_row(run_id, flow=f"flow{batch}-{number}")
        assert collector.collect(CLONES) == many
    assert len(outbox.entries(1000)) == 3 * many


def test_a_new_process_goes_on_and_repeats_nothing(book: Book, outbox: Outbox) -> None:
    for number in range(20):
        book.rows[f"r{number}"] = make_row(f"r{number}", flow=f"flow{number}")
    collector_of(book, outbox).collect(CLONES)
    book.rows["r20"] = make_row("r20", flow="flow20")
    assert collector_of(book, outbox).collect(CLONES) == 1


def test_a_repository_that_is_added_later_gets_its_young_runs(book: Book, outbox: Outbox) -> None:
    collector = collector_of(book, outbox)
    book.rows["old"] = make_row("old", flow="old", requested_at=NOW - 8 * 86400,
                                git={"repository": "/srv/new.git", "sha": SHA})  # fmt: skip
    book.rows["r1"] = make_row("r1", git={"repository": "/srv/new.git", "sha": SHA})
    collector.collect(CLONES)
    assert collector.collect({**CLONES, "/srv/new.git": "new"}) == 1
    assert [entry.repository for entry in outbox.entries()] == ["new"]


def test_a_denial_says_why(book: Book, outbox: Outbox) -> None:
    decision = {"allow": False, "verdicts": [{"violations": [{"message": "the licence is not allowed"}]}]}
    book.rows["r1"] = make_row("r1", status="denied", decision=decision, evidence_digest=DIGEST)
    collector_of(book, outbox).collect(CLONES)
    (entry,) = outbox.entries()
    assert entry.body["report"]["problem"] == "the licence is not allowed"


def test_a_pull_request_is_known_by_its_number(book: Book, outbox: Outbox) -> None:
    for number, told in enumerate(("12", "", "-1", "x", "9" * 30)):
        git = {"repository": "/srv/shop.git", "sha": SHA, "ref": "refs/heads/a", "event": "pr",
               "number": told}  # fmt: skip
        book.rows[f"r{number}"] = make_row(f"r{number}", flow=f"f{number}", git=git)
    collector_of(book, outbox).collect(CLONES)
    assert [entry.target for entry in outbox.entries() if entry.kind == "comment"] == ["comment:shop:12"]


def test_a_run_recorded_with_the_number_of_a_release_is_no_pull_requests(book: Book, outbox: Outbox) -> None:
    for number, event in enumerate(("release", "pipeline", "check", "push", "tag", "delete", "")):
        git = {
            "repository": "/srv/shop.git",
            "sha": SHA,
            "ref": "refs/tags/v1",
            "number": "42",
            "event": event,
        }
        book.rows[f"r{number}"] = make_row(f"r{number}", flow=f"f{number}", git=git)
    collector_of(book, outbox).collect(CLONES)
    targets = sorted(entry.target for entry in outbox.entries())
    assert targets == [f"status:shop:{SHA}:maestro/f{number}" for number in range(7)]


def test_a_run_that_the_journal_lost_holds_up_nobody(book: Book, outbox: Outbox) -> None:
    for run_id in ("r1", "r2"):
        book.rows[run_id] = make_row(run_id, flow=run_id)
    collector = collector_of(book, outbox)
    collector.collect(CLONES)
    del book.rows["r1"]
    book.change("r2", status="succeeded", evidence_digest=DIGEST)
    assert collector.collect(CLONES) == 1
    assert outbox.watched() == []


def test_a_forge_reads_no_secret(book: Book, outbox: Outbox) -> None:
    book.rows["r1"] = make_row("r1", status="failed", evidence_digest=DIGEST)
    collector = Collector(book, outbox, hide=lambda text: text.replace("tests", "***"), clock=lambda: NOW)
    collector.collect(CLONES)
    assert outbox.entries()[0].body["report"]["problem"] == "late: 3 *** failed"


def test_a_run_without_a_commit_is_not_told_of(book: Book, outbox: Outbox) -> None:
    book.rows["r1"] = make_row("r1", git={"repository": "/srv/shop.git"})
    assert collector_of(book, outbox).collect(CLONES) == 0
