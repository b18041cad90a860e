"""A room's tables in PostgreSQL: one writer, nothing lost, nothing twice, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from maestro_dagster.database import migration, pool, postgres
from maestro_dagster.database.interface import Connection, Database
from maestro_dagster.database.owner import Owner
from maestro_dagster.database.placeholder import convert_sql
from maestro_dagster.database.postgres import PostgresDatabase, lock_key
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.errors import DatabaseError

TABLES = "CREATE TABLE IF NOT EXISTS rate (key TEXT NOT NULL, at REAL NOT NULL)"


@pytest.fixture(scope="session")
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def stored(url: str) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase(url, "room")
    with database.write() as connection:
        connection.execute("DELETE FROM rate")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "postgres":
        found: Database = request.getfixturevalue("stored")
        return found
    return SqliteDatabase(tmp_path / "x.sqlite", tables=TABLES)


def add(key: str, at: float = 0.0) -> Callable[[Connection], int]:
    return lambda connection: connection.execute("INSERT INTO rate VALUES (?, ?)", (key, at)).rowcount


def keys(database: Database) -> list[str]:
    return [
        row[0]
        for row in database.run_read(lambda c: c.execute("SELECT key FROM rate ORDER BY at").fetchall())
    ]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT ?, '?', \"?\"", "SELECT %s, '?', \"?\""),
        ("LIKE 'a%' AND x = ?", "LIKE 'a%%' AND x = %s"),
        ("'it''s ?' || ?", "'it''s ?' || %s"),
        ("5 % 2", "5 %% 2"),
    ],
)
def test_only_a_placeholder_becomes_one(sql: str, wanted: str) -> None:
    assert convert_sql(sql) == wanted


def test_values_come_back_as_they_went(either: Database) -> None:
    texts = ["", "?%s%%", "'; DROP TABLE rate; --", "\u00e9\U0001f600", "\\", "\x01"]
    with either.write() as connection:
        connection.executemany(
            "INSERT INTO rate VALUES (?, ?)", [(text, n / 3) for n, text in enumerate(texts)]
        )
    assert keys(either) == texts
    with either.read() as connection:
        rows = connection.execute("SELECT at FROM rate WHERE key <> '?%s' ORDER BY at").fetchall()
        assert [row[0] for row in rows] == [n / 3 for n in range(len(texts))]


def test_a_block_that_raises_changes_nothing(either: Database) -> None:
    with pytest.raises(KeyError), either.write() as connection:  # noqa: PT012
        connection.execute("INSERT INTO rate VALUES ('a', 1)")
        raise KeyError
    with pytest.raises(DatabaseError) as caught, either.write() as connection:  # noqa: PT012
        connection.execute("INSERT INTO rate VALUES ('b', 1)")
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert caught.value.remedy
    assert keys(either) == []
    assert either.run_write(add("c")) == 1


def test_writers_come_one_after_the_other(either: Database, url: str) -> None:
    others = [PostgresDatabase(url, "room") for _ in range(3)] if either.kind == "postgres" else [either] * 3

    def count(connection: Connection) -> None:
        found = connection.execute("SELECT count(*) FROM rate").fetchone()[0]
        time.sleep(0.001)
        connection.execute("INSERT INTO rate VALUES (?, ?)", (str(found), found))

    def work(database: Database) -> None:
        for _ in range(20):
            database.run_write(count)

    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys(either) == [str(number) for number in range(60)]


def test_a_read_sees_one_moment(either: Database) -> None:
    either.run_write(add("a"))
    with either.read() as connection:
        assert connection.execute("SELECT count(*) FROM rate").fetchone()[0] == 1
        writer = threading.Thread(target=lambda: either.run_write(add("b", 1)))
        writer.start()
        writer.join()
        assert connection.execute("SELECT count(*) FROM rate").fetchone()[0] == 1
    assert keys(either) == ["a", "b"]


def test_a_forked_child_has_connections_of_its_own(either: Database) -> None:
    either.run_write(add("parent"))
    keys(either)
    child = os.fork()
    if child == 0:
        try:
            either.run_write(add("child", 1))
            os._exit(0 if keys(either) == ["parent", "child"] else 1)
        except BaseException:  # noqa: BLE001 - the parent looks at the status
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    either.run_write(add("again", 2))
    assert keys(either) == ["parent", "child", "again"]


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_whose_answer_was_lost_is_made_once(
    stored: PostgresDatabase, url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    real, lost = postgres.send, iter([True])
    calls = []

    def send(raw: Any, statements: str, values: Any = None) -> Any:
        if statements != "COMMIT" or not next(lost, False):
            return real(raw, statements, values)
        if committed:
            real(raw, statements, values)
        kill(url, raw.get_backend_pid())
        return real(raw, "SELECT 1")

    def work(connection: Connection) -> str:
        calls.append(1)
        connection.execute("INSERT INTO rate VALUES ('once', ?)", (len(calls),))
        return "result"

    monkeypatch.setattr(postgres, "send", send)
    assert stored.run_write(work) == "result"
    assert keys(stored) == ["once"]
    assert len(calls) == (1 if committed else 2)


def kill(url: str, pid: int) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute("SELECT pg_terminate_backend(%s)", (pid,))
    connection.close()


def test_idle_connections_that_broke_are_replaced(stored: PostgresDatabase, url: str) -> None:
    stored.run_write(add("a"))
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'maestro-room'"
    )
    connection.close()
    stored.run_write(add("b", 1))
    assert keys(stored) == ["a", "b"]


def test_who_holds_the_lock_too_long_is_said(
    stored: PostgresDatabase, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = psycopg2.connect(url)
    connection.cursor().execute("SELECT pg_advisory_lock(%s)", (lock_key("room"),))
    stored._head = stored._head.replace("lock_timeout TO '30s'", "lock_timeout TO '50ms'")
    with pytest.raises(DatabaseError) as caught:
        stored.run_write(add("a"))
    assert caught.value.error_code == "database-busy"
    connection.cursor().execute("SELECT pg_advisory_unlock(%s)", (lock_key("room"),))
    connection.close()
    assert stored.run_write(add("a")) == 1


def test_a_server_that_is_not_there_is_said_at_once_and_without_the_password() -> None:
    database = PostgresDatabase("postgresql://ann:hunter%2022@127.0.0.1:1/x", "room")
    for call in (lambda: database.run_write(add("a")), lambda: keys(database)):
        with pytest.raises(DatabaseError) as caught:
            call()
        assert caught.value.error_code == "database-unavailable"
        assert caught.value.place == "postgresql://127.0.0.1:1/x"
        assert "hunter" not in str(caught.value)


def test_a_database_belongs_to_one_project(new_database: Callable[[], str]) -> None:
    url = new_database()
    PostgresDatabase(url, "room", owner=Owner("t/one")).run_write(add("a"))
    with pytest.raises(DatabaseError) as caught:
        PostgresDatabase(url, "room", owner=Owner("t/two")).run_write(add("b"))
    assert caught.value.error_code == "database-foreign"
    assert keys(PostgresDatabase(url, "room", owner=Owner("t/one"))) == ["a"]
    assert keys(PostgresDatabase(url, "other room")) == ["a"], "budgets and usage are shared"


def test_two_projects_of_one_name_are_told_apart_by_their_keys(new_database: Callable[[], str]) -> None:
    url = new_database()

    def use(*hints: str) -> None:
        PostgresDatabase(url, "room", owner=Owner("t/p", lambda: hints)).run_read(
            lambda c: c.execute("SELECT 1")
        )

    use()  # a machine without keys remembers none
    use("first")
    use("second", "first")  # a new key beside the old one
    use("second")  # on another machine
    use()
    for hints in (("third",), ("third", "fourth")):
        with pytest.raises(DatabaseError) as caught:
            use(*hints)
        assert caught.value.error_code == "database-foreign"
        assert "pub.pem" in caught.value.remedy
    use("first")


def test_of_two_that_come_first_at_once_one_stays(new_database: Callable[[], str]) -> None:
    url = new_database()
    keys(PostgresDatabase(url, "room"))
    came: list[str] = []

    def come(hint: str) -> None:
        with contextlib.suppress(DatabaseError):
            keys(PostgresDatabase(url, "room", owner=Owner("t/p", lambda: (hint,))))
            came.append(hint)

    threads = [threading.Thread(target=come, args=(f"key {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(came) == 1


# Migrations


def test_processes_that_find_an_empty_database_at_once_make_the_tables_once(
    new_database: Callable[[], str],
) -> None:
    url = new_database()
    databases = [PostgresDatabase(url, uuid.uuid4().hex) for _ in range(4)]
    threads = [threading.Thread(target=lambda d=each: d.run_write(add("a"))) for each in databases]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys(databases[0]) == ["a"] * 4


def test_tables_of_before_are_taken_over_with_what_they_hold(new_database: Callable[[], str]) -> None:
    """A Maestro before the schema kept usage and budgets in `public`."""
    url = new_database()
    connection = psycopg2.connect(url)
    connection.autocommit = True
    folder = Path(migration.__file__).with_name("migrations") / "r0001"
    for name in ("usage", "budget"):
        text = (folder / f"{name}.sql").read_text()
        for word in ("usage_source", "usage_line", "usage_lineage", "budget_"):
            text = text.replace(f" {word}", f" maestro_{word}").replace("maestro_maestro_", "maestro_")
        connection.cursor().execute(text)
    cursor = connection.cursor()
    cursor.execute(
        "CREATE TABLE maestro_usage_version (version integer NOT NULL);"
        "INSERT INTO maestro_budget_ended VALUES ('r1'); SELECT nextval('maestro_usage_source_id');"
        "INSERT INTO maestro_usage_source VALUES (1, 't/p', 'r1')"
    )
    PostgresDatabase(url, "room").run_write(add("a"))
    cursor.execute(
        "SELECT run_id FROM maestro.budget_ended UNION ALL SELECT run_id FROM maestro.usage_source"
    )
    assert cursor.fetchall() == [("r1",), ("r1",)]
    cursor.execute("SELECT nextval('maestro.usage_source_id')")
    assert cursor.fetchone() == (2,)
    cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    assert cursor.fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("known", "code"), [(("0000",), "database-newer"), (("0001", "0002", "0003"), "database-older")]
)
def test_tables_of_another_revision_are_left_alone(
    url: str, stored: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...], code: str
) -> None:
    monkeypatch.setattr(migration, "list_revisions", lambda: known)
    with pytest.raises(DatabaseError) as caught:
        PostgresDatabase(url, "room").run_write(add("a"))
    assert caught.value.error_code == code
    assert caught.value.remedy
    assert keys(stored) == []


def test_the_chain_has_one_head_which_is_the_newest_file() -> None:
    from alembic.script import ScriptDirectory

    chain = ScriptDirectory(str(Path(migration.__file__).with_name("migrations")))
    assert chain.get_heads() == [migration.list_revisions()[-1]]
    assert [each.revision for each in chain.walk_revisions()][::-1] == list(migration.list_revisions())


def test_a_pool_has_no_more_connections_than_it_may(url: str) -> None:
    found = pool.Pool(url, name="maestro-many")

    def hold() -> None:
        with found.room():
            connection, _ = found.insist(lambda raw: pool.send(raw, "SELECT pg_sleep(0.05)"))
        found.give(connection)

    threads = [threading.Thread(target=hold) for _ in range(3 * pool.MOST)]
    for thread in threads:
        thread.start()
    most = 0
    connection = psycopg2.connect(url)
    connection.autocommit = True
    while any(thread.is_alive() for thread in threads):
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'maestro-many'")
        most = max(most, cursor.fetchone()[0])
    connection.close()
    found.close()
    assert 0 < most <= pool.MOST + 1, "one may be just saying good-bye"


def test_an_error_without_a_state_is_the_lines_own(url: str) -> None:
    """The driver may say that a connection is open whose server has just died."""
    connection = psycopg2.connect(url)
    try:
        assert pool.is_lost(connection, psycopg2.DatabaseError("server closed the connection unexpectedly"))
        assert not pool.is_lost(connection, psycopg2.ProgrammingError("can't adapt type 'object'"))
        with pytest.raises(psycopg2.Error) as refused:
            pool.send(connection, "SELECT 1 / 0")
        assert not pool.is_lost(connection, refused.value)
    finally:
        connection.close()
