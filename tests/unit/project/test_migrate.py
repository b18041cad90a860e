"""A project moves from the files of its home into PostgreSQL: all of it, once, and compared."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.account import Account
from maestro_dagster.costs.counter_postgres import PostgresCounter
from maestro_dagster.costs.counter_sqlite import SqliteCounter
from maestro_dagster.database.migration import list_revisions, upgrade_schema
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.errors import MaestroError
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.database import open_journal
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.migrate import migrate_project
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_engine, open_spool
from maestro_dagster.workers.guard import LoopGuard

NEWEST = list_revisions()[-1]
FLOW = """\
name: greet
version: 1.0.0
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: hello}}
  - {id: again, uses: pkg:text/template@1.0.0, needs: [hello], with: {template: again}}
"""


def make_event(number: int) -> RepositoryEvent:
    return RepositoryEvent(
        event_id=f"{number:064x}", repository="/srv/shop.git", before="0" * 40, after=f"{number:040x}",
        ref="refs/heads/main", received_at=1.5 + number, source="hook", name="shop",
    )  # fmt: skip


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A project with a run that has ended, a requested one, events, budgets and usage, all in files."""
    root = tmp_path / "shop"
    init_project(root)
    (root / "assets" / "greet.yaml").write_text(FLOW)
    monkeypatch.chdir(root)
    assert run_command(["run", "greet", "--json"]) == 0
    capsys.readouterr()
    project = find_project(root)
    engine = open_engine(project)
    flow = Flow.model_validate({"name": "later", "version": "1.0.0", "tasks": [
        {"id": "a", "uses": "pkg:text/template@1.0.0", "with": {"template": "\u00e9"}}]})  # fmt: skip
    for number in range(3):
        engine.request(RunRequest(run_id=f"r{number}", flow=flow, params={"n": number}))
    engine.services.journal.take_lease("r2", "gone", 0.0, begin=True)
    engine.services.journal.close()
    inbox = open_inbox(project)
    inbox.accept([make_event(number) for number in range(1200)])
    inbox.mark_requested(make_event(3).event_id, ["r0"])
    inbox.close()
    counter = SqliteCounter(project.home / "budgets.sqlite")
    counter.reserve([Account("t#month:2026-11", "t", "", None, None, None, ())], 2**62, 5, "id", run_id="r0")
    counter.close()
    return root


def use(root: Path, url: str) -> Project:
    path = root / "pyproject.toml"
    path.write_text(path.read_text().replace("[tool.maestro]\n", f'[tool.maestro]\ndatabase = "{url}"\n'))
    return find_project(root)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(MaestroError) as caught:
        call()
    assert caught.value.remedy
    return caught.value.error_code


def test_everything_arrives_and_the_second_time_nothing_is_copied(
    filled: Path, new_database: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = find_project(filled)
    journal = open_journal(before)
    runs = journal.runs()
    steps = {run.run_id: journal.steps(run.run_id) for run in runs}
    flows = {run.run_id: journal.flow_bytes(run.flow_digest) for run in runs}
    events = open_inbox(before).recent(5000)
    usage = {run_id: open_spool(before).read_run(run_id) for run_id in open_spool(before).runs()}
    assert any(usage.values())
    url = new_database()
    project = use(filled, url)
    assert code_of(lambda: open_journal(project)) == "records-not-moved"
    assert run_command(["status", "--json"]) == 1, "nobody goes on with an empty journal"
    capsys.readouterr()

    assert run_command(["migrate", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["revision"] == {"before": None, "after": NEWEST}
    assert (said["rows"]["run"], said["rows"]["event"], said["repeated"]) == (4, 1200, False)
    assert said["usage"] == sum(map(len, usage.values()))

    moved = open_journal(project)
    assert moved.runs() == runs
    assert {run.run_id: moved.steps(run.run_id) for run in runs} == steps
    assert {run.run_id: moved.flow_bytes(run.flow_digest) for run in runs} == flows
    assert moved.begun() == ["r2"]
    inbox = open_inbox(project)
    assert inbox.recent(5000) == events
    assert inbox.run_ids(make_event(3).event_id) == ("r0",)
    assert not any(inbox.accept([make_event(5)])), "known"
    assert {run_id: open_spool(project).read_run(run_id) for run_id in usage} == usage
    assert not list(project.spool.glob("*.ndjson"))
    tally = PostgresCounter(url).read(["t#month:2026-11"])["t#month:2026-11"]
    assert tally.reserved_nano == 2**62

    moved.start_run("r0")  # the project goes on
    assert run_command(["migrate", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {**said, "revision": {"before": NEWEST, "after": NEWEST}, "usage": 0, "repeated": True}
    assert moved.run("r0").status == "running"
    assert PostgresCounter(url).read(["t#month:2026-11"])["t#month:2026-11"] == tally
    assert run_command(["run", "greet", "--json"]) == 0
    assert len(moved.runs()) == 5


def test_a_copy_that_died_before_it_was_noted_is_not_made_twice(
    filled: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    project = use(filled, url)

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("maestro_dagster.project.migrate._move_usage", die)
        with pytest.raises(KeyboardInterrupt):
            migrate_project(project, print)
    assert code_of(lambda: open_journal(project)) == "records-not-moved"
    assert migrate_project(project, print).repeated
    assert PostgresCounter(url).read(["t#month:2026-11"])["t#month:2026-11"].reserved_nano == 2**62


def test_nothing_is_copied_where_a_row_says_something_else(
    filled: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    project = use(filled, url)
    (filled.parent / "elsewhere").mkdir()
    other = open_journal(use_home(project, filled.parent / "elsewhere"))
    flow = Flow.model_validate({"name": "mine", "version": "1.0.0", "tasks": [
        {"id": "a", "uses": "pkg:text/template@1.0.0", "with": {"template": "x"}}]})  # fmt: skip
    other.request([RunRequest(run_id="r1", flow=flow)])
    assert code_of(lambda: migrate_project(project, print)) == "migrate-differs"
    assert [run.run_id for run in other.runs()] == ["r1"]
    assert (project.home / "journal.sqlite").exists()


def use_home(project: Project, home: Path) -> Project:
    from dataclasses import replace

    return replace(project, home=home)


def test_it_refuses_while_a_loop_or_a_run_goes_on(filled: Path, new_database: Callable[[], str]) -> None:
    project = find_project(filled)
    assert code_of(lambda: migrate_project(project, print)) == "database-missing"
    journal = open_journal(project)
    project = use(filled, new_database())
    with LoopGuard(project.home):
        assert code_of(lambda: migrate_project(project, print)) == "loop-running"
    journal.take_lease("r1", "somebody", 60)
    assert code_of(lambda: migrate_project(project, print)) == "runs-going"
    journal.release_lease("r1", "somebody")
    assert migrate_project(project, print).rows["run"] == 4


def test_a_damaged_journal_moves_nowhere(filled: Path, new_database: Callable[[], str]) -> None:
    project = use(filled, new_database())
    with sqlite3.connect(project.home / "journal.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray((project.home / "journal.sqlite").read_bytes())
    data[4096 * 2 : 4096 * 6] = b"\x55" * 4096 * 4
    (project.home / "journal.sqlite").write_bytes(data)
    assert code_of(lambda: migrate_project(project, print)) == "journal-corrupt"
    with psycopg2.connect(project.settings.database) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT to_regclass('maestro.run')")
        if cursor.fetchone()[0]:
            cursor.execute("SELECT count(*) FROM maestro.run")
            assert cursor.fetchone() == (0,)
    connection.close()


def test_a_second_project_of_the_same_name_is_refused(filled: Path, new_database: Callable[[], str]) -> None:
    """A database from before remembers no keys: it adopts those of the first that comes."""
    url = new_database()
    upgrade_schema(url, "0001")
    assert code_of(lambda: open_journal(use_home(use(init_second(filled), url), filled / "x")).runs()) == (
        "journal-older"
    )
    project = use(filled, url)
    migrate_project(project, print)
    for call in (
        lambda: migrate_project(find_project(filled.parent / "second"), print),
        lambda: open_journal(find_project(filled.parent / "second")).runs(),
    ):
        assert code_of(call).endswith("-foreign")
    make_key_anew(project)
    assert open_journal(find_project(filled)).runs(), "the old public half is still there"
    for path in project.keys.glob("maestro.*.pub.pem"):
        path.unlink()
    assert open_journal(find_project(filled)).runs(), "and the database knows the new key by now"


def init_second(root: Path) -> Path:
    second: Path = init_project(root.parent / "second").root
    text = (second / "pyproject.toml").read_text().replace('name = "second"', 'name = "shop"')
    (second / "pyproject.toml").write_text(text)
    return second


def make_key_anew(project: Project) -> None:
    (project.keys / "maestro.pem").unlink()
    init_project(project.root)


def test_where_nothing_is_to_be_done_a_loop_may_run(
    filled: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an upgrade goes whose tables have not changed, and a home that had no files."""
    project = use(filled, new_database())
    rows = migrate_project(project, print).rows
    with LoopGuard(project.home):
        again = migrate_project(project, print)
        assert (again.nothing, again.rows, again.before) == (True, rows, NEWEST)
        fresh = use_home(project, filled.parent / "fresh")
        fresh.home.mkdir()
        with LoopGuard(fresh.home):
            assert migrate_project(fresh, print).nothing
        with psycopg2.connect(project.settings.database) as connection:
            connection.cursor().execute("DELETE FROM maestro.moved")
        connection.close()
        assert code_of(lambda: migrate_project(project, print)) == "loop-running", (
            "this database is another one"
        )


def test_tables_do_not_change_below_a_loop_of_another_machine(
    filled: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.database.survey.GRACE", 0.3)
    url = new_database()
    project = use(filled, url)
    migrate_project(project, print)
    other = open_inbox(use_home(project, filled.parent / "other"))
    other.recent(1)  # its connection stays, as that of a loop

    def run(statements: str) -> None:
        with psycopg2.connect(url) as connection:
            connection.cursor().execute(statements)
        connection.close()

    run("DROP TABLE maestro.owner_key; UPDATE maestro.alembic_version SET version_num = '0001'")
    assert code_of(lambda: migrate_project(project, print)) == "loop-running"
    other.close()
    run("INSERT INTO maestro.lease VALUES ('r1', 'x', 'elsewhere', 1, extract(epoch FROM now()) + 60)")
    assert code_of(lambda: migrate_project(project, print)) == "runs-going"
    run("DELETE FROM maestro.lease WHERE owner = 'x'")
    assert migrate_project(project, print).before == "0001"


def test_migrations_of_one_home_wait_for_each_other(filled: Path, new_database: Callable[[], str]) -> None:
    use(filled, new_database())
    command = [sys.executable, "-m", "maestro_dagster", "migrate", "--json"]
    processes = [
        subprocess.Popen(command, cwd=filled, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    found = [json.loads(out) for out, _ in said]
    assert sorted(each["repeated"] for each in found) == [False] + [True] * 5
    assert not list((filled / ".maestro").glob("*.tmp"))
