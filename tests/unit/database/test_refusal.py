"""Each way to be refused has its own words, from a real server, and no password is in any of them."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.database.pool import Pool
from maestro_dagster.errors import MaestroError
from maestro_dagster.project.scaffold import init_project


@pytest.fixture(scope="module")
def picky(postgres_data: tuple[str, Path], new_database: Callable[[], str]) -> Iterator[str]:
    """The URL of a database whose role `picky` needs its password."""
    server, folder = postgres_data
    rules = folder / "pg_hba.conf"
    before = rules.read_text()

    def run(statement: str) -> None:
        connection = psycopg2.connect(server)
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    url = new_database()
    run("CREATE ROLE picky LOGIN PASSWORD 'right-one-22'")
    rules.write_text("local all picky scram-sha-256\n" + before)
    run("SELECT pg_reload_conf()")
    time.sleep(0.3)
    yield re.sub(r"//[^@/]*@", "//picky:wrong-one-22@", url)
    rules.write_text(before)
    run("SELECT pg_reload_conf()")


def said_of(url: str) -> MaestroError:
    pool = Pool(url)
    with pytest.raises(MaestroError) as caught:
        pool.insist(lambda _: None)
    assert caught.value.error_code == "database-unavailable"
    assert "wrong-one" not in str(caught.value)
    return caught.value


def test_each_refusal_has_words_and_a_remedy_of_its_own(picky: str, postgres_server: str) -> None:
    found = [
        said_of(picky),
        said_of(postgres_server.replace("/postgres?", "/no_such_place?")),
        said_of(f"{picky}&sslmod=require"),
        said_of("postgresql://picky:wrong-one-22@127.0.0.1:1/x"),
    ]
    assert len({error.fact.partition(":")[0] for error in found}) == 4
    assert len({error.remedy for error in found}) == 4
    assert "role" in found[0].fact
    assert "CREATE DATABASE" in found[1].remedy
    assert "sslmod" in found[2].fact


def test_the_loop_looks_at_the_database_before_anything_starts(
    picky: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = init_project(tmp_path / "shop").root
    monkeypatch.chdir(root)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing is started"))
    monkeypatch.setenv("MAESTRO_DATABASE", picky)
    monkeypatch.setenv("MAESTRO_PROJECT", str(root))
    start = time.monotonic()
    assert run_command(["dev", "--no-ui", "--port", "39999"]) == 1
    assert time.monotonic() - start < 5
    out, err = capfd.readouterr()
    assert "journal-unavailable" in err
    assert "Traceback" not in err
    assert "served" not in out + err
    assert len((out + err).splitlines()) < 6
