"""A database as an operator makes it: a role of its own, with no more rights than the documents ask for."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.database import survey
from maestro_dagster.database.migration import upgrade_schema
from maestro_dagster.project.database import open_journal
from maestro_dagster.project.root import find_project
from maestro_dagster.project.scaffold import init_project

pytestmark = pytest.mark.slow
FLOW = """\
name: greet
version: 1.0.0
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: hello}}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a database; the working directory is in it."""
    found = init_project(tmp_path / "shop").root
    (found / "assets" / "greet.yaml").write_text(FLOW)
    monkeypatch.chdir(found)
    return found


def tables(url: str) -> set[tuple[str, str]]:
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'maestro', 'private')"
    )
    found = set(cursor.fetchall())
    connection.close()
    return found


@pytest.mark.parametrize("query", ["", "&options=-csearch_path%3Dprivate"])
def test_a_role_that_is_called_as_the_schema_makes_a_whole_run(
    root: Path,
    new_role_database: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    query: str,
) -> None:
    """PostgreSQL looks into the schema with the name of the role before it looks into `public`."""
    url = new_role_database() + query
    monkeypatch.setenv("MAESTRO_DATABASE", url)
    assert run_command(["migrate", "--json"]) == 0
    assert run_command(["run", "greet", "--json"]) == 0, capsys.readouterr().err
    assert run_command(["run", "greet", "--json"]) == 0, "and the second finds what the first has made"
    found = tables(url)
    assert {("public", "runs"), ("public", "event_logs"), ("public", "alembic_version")} <= found
    assert {("maestro", "run"), ("maestro", "alembic_version")} <= found
    assert not found & {("maestro", "runs"), ("maestro", "event_logs"), ("private", "runs")}


def code(capsys: pytest.CaptureFixture[str]) -> str:
    return str(json.loads(capsys.readouterr().out)["error"]["code"])


def test_tables_of_dagster_that_an_older_release_put_among_ours_are_noticed(
    root: Path,
    new_role_database: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dagster_postgres import DagsterPostgresStorage

    url = new_role_database()
    monkeypatch.setenv("MAESTRO_DATABASE", url)
    assert run_command(["migrate", "--json"]) == 0
    with pytest.raises(Exception, match="Can't locate revision"):
        DagsterPostgresStorage(url)  # as the older release opened it
    assert ("maestro", "runs") in tables(url)
    capsys.readouterr()

    assert run_command(["migrate", "--json"]) == 1
    assert code(capsys) == "dagster-misplaced"
    assert run_command(["doctor", "--json"]) == 1
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["checks"]}["journal"]
    assert found["status"] == "error"
    drop = re.search(r"DROP TABLE [\w., ]+", found["remedy"])
    assert drop
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(drop.group())
    connection.close()
    assert run_command(["migrate", "--json"]) == 0
    assert run_command(["run", "greet", "--json"]) == 0


def test_every_table_of_dagster_is_known_to_be_one() -> None:
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

    parts = (SqlEventLogStorageMetadata, RunStorageSqlMetadata, ScheduleStorageSqlMetadata)
    assert {name for part in parts for name in part.tables} == set(survey._DAGSTERS)


@pytest.mark.parametrize("way", ["migrate", "doctor", "run"])
def test_rights_that_lack_are_said_before_anything_is_made(
    root: Path,
    new_role_database: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    """On PostgreSQL 15 and later CREATE on the database is no right to make tables in `public`."""
    owner = new_role_database()
    url = grant(owner, "few", "CONNECT, CREATE ON DATABASE")
    monkeypatch.setenv("MAESTRO_DATABASE", url)
    assert run_command([way, *(["greet"] if way == "run" else []), "--json"]) == 1
    said = capsys.readouterr().out
    assert "GRANT USAGE, CREATE ON SCHEMA public TO few" in said
    assert "permission denied" not in said
    if way == "migrate":
        assert json.loads(said)["error"]["code"] == "database-rights"
    assert not tables(url)
    with contextlib.closing(open_journal(find_project(root))) as journal:
        upgrade_schema(url)  # as with Dagster's storage elsewhere: only who opens it here is refused
        assert journal.runs() == []
        assert run_command(["run", "greet", "--json"]) == 1
        assert code(capsys) == "database-rights"
        assert journal.runs() == [], "nothing was requested"
    grant(owner, "few", "USAGE, CREATE ON SCHEMA public")
    assert run_command(["run", "greet", "--json"]) == 0


def grant(owner: str, role: str, right: str) -> str:
    connection = psycopg2.connect(owner)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
    if cursor.fetchone() is None:
        superuser = psycopg2.connect(owner.replace("//maestro@", "//postgres@"))
        superuser.autocommit = True
        superuser.cursor().execute(f"CREATE ROLE {role} LOGIN")
        superuser.close()
    target = f" {owner.partition('?')[0].rpartition('/')[2]}" if right.endswith("DATABASE") else ""
    cursor.execute(f"GRANT {right}{target} TO {role}")
    connection.close()
    return owner.replace("//maestro@", f"//{role}@")
