"""The views: usage and cubes from wherever they lie, each event once."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import CUBES, build_cubes
from maestro_dagster.costs.duck import VIEWS, connect_memory, open_views, read_view
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.question import answer, read_run
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError

TOTAL = "SELECT count(*), sum(cost_usd), count(*) - count(cost_usd) FROM usage"
CUBED = "SELECT sum(events), sum(cost_usd), sum(unknown) FROM {}"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def put(spool: Spool, *events: UsageEvent) -> None:
    with spool.open_run(events[0].run_id) as writer:
        writer.append(events)


def compact(spool: Spool, lake: Lake, *, ended: bool = True) -> None:
    for day in spool.days():
        compact_day(spool, lake, day, lambda _: ended)


def ask(lake: Lake, spool: Spool | None, sql: str, **period: str) -> list[Any]:
    with open_views(lake, spool, **period) as connection:
        return connection.execute(sql).fetchall()


def assert_total(lake: Lake, spool: Spool | None, events: int, nano: int, unknown: int = 0) -> None:
    """The same from the usage and from every cube."""
    wanted = (events, Decimal(nano).scaleb(-9), unknown)
    with open_views(lake, spool) as connection:
        assert connection.execute(TOTAL).fetchone() == wanted
        for name in CUBES:
            assert connection.execute(CUBED.format(name)).fetchone() == wanted, name


def test_an_empty_project_has_empty_views(lake: Lake, spool: Spool) -> None:
    with open_views(lake, spool) as connection:
        for name in VIEWS:
            assert connection.table(name).fetchall() == []


def test_usage_in_the_spool_counts_at_once_and_never_twice(lake: Lake, spool: Spool) -> None:
    put(spool, make_event("a", cost_nano=1), make_event("a", cost_nano=None))
    assert_total(lake, spool, 2, 1, 1)
    compact(spool, lake)
    build_cubes(lake, DAY)
    assert_total(lake, spool, 2, 1, 1)
    again = make_event("b", cost_nano=4)
    put(spool, again, again)
    put(spool, again)
    assert_total(lake, spool, 3, 5, 1)  # the cube of the lake, and what is fresh
    assert_total(lake, None, 2, 1, 1)
    compact(spool, lake, ended=False)  # leaves the file where it is
    assert spool.runs()
    assert_total(lake, spool, 3, 5, 1)


def test_a_settlement_replaces_its_reserve_wherever_they_stand(lake: Lake, spool: Spool) -> None:
    kept = make_event("kept", cost_nano=1)
    reserve = make_event("a", event_id="x", phase="intent", cost_nano=100)
    put(spool, kept, reserve)
    assert_total(lake, spool, 2, 101)
    compact(spool, lake)
    build_cubes(lake, DAY)
    put(spool, reserve)  # said again: it is known
    assert_total(lake, spool, 2, 101)
    put(spool, make_event("a", event_id="x", cost_nano=7))
    assert_total(lake, spool, 2, 8)
    compact(spool, lake)
    assert_total(lake, spool, 2, 8)
    put(spool, reserve)  # what was settled stays settled
    assert_total(lake, spool, 2, 8)
    assert [event.cost_nano for event in read_run(lake, spool, "a")] == [7]


def test_a_period_takes_whole_days_from_lake_and_spool(lake: Lake, spool: Spool) -> None:
    for number, day in enumerate(("2026-02-28", DAY, "2026-03-02")):
        put(spool, make_event(f"lake{number}", cost_nano=10**number, occurred_at=f"{day}T23:59:59.999999Z"))
    compact(spool, lake)
    for number, day in enumerate(("2026-02-28", DAY, "2026-03-02"), start=3):
        put(spool, make_event(f"spool{number}", cost_nano=10**number, occurred_at=f"{day}T00:00:00.000000Z"))
    sql = "SELECT CAST(sum(cost_usd) * 1000000000 AS INTEGER) FROM usage_by_day"
    assert ask(lake, spool, sql, since=DAY) == [(110110,)]
    assert ask(lake, spool, sql, until=DAY) == [(11011,)]
    assert ask(lake, spool, sql, since=DAY, until=DAY) == [(10010,)]
    days = ask(lake, spool, "SELECT CAST(day AS VARCHAR), count(*) FROM usage GROUP BY day ORDER BY day")
    assert days == [("2026-02-28", 2), (DAY, 2), ("2026-03-02", 2)]


@pytest.mark.parametrize("folder", ["env=prod", "a[b]*", "o'clock & ü", "day=2020-01-01"])
def test_the_folder_s_name_is_only_a_name(tmp_path: Path, spool: Spool, folder: str) -> None:
    (tmp_path / folder).mkdir()
    lake = open_lake(tmp_path / folder / "lake")
    put(spool, make_event(cost_nano=3))
    compact(spool, lake)
    assert_total(lake, None, 1, 3)
    assert ask(lake, None, "SELECT env, CAST(day AS VARCHAR) FROM usage") == [("dev", DAY)]
    build_cubes(lake, DAY)
    assert_total(lake, None, 1, 3)


def test_a_lake_behind_a_url(spool: Spool) -> None:
    lake = open_lake("memory://views/lake")
    try:
        put(spool, make_event(cost_nano=3))
        compact(spool, lake)
        assert_total(lake, None, 1, 3)
        build_cubes(lake, DAY)
        put(spool, make_event("b", cost_nano=4))
        assert_total(lake, spool, 2, 7)
    finally:
        fsspec.filesystem("memory").rm("/views", recursive=True)


def test_files_of_an_older_version_are_read_at_what_they_meant(lake: Lake, spool: Spool) -> None:
    import pyarrow.parquet as pq

    put(spool, make_event(cost_nano=3, tokens_in=5))
    compact(spool, lake)
    manifest = lake.usage.manifest(DAY)
    path = lake.usage.file(DAY)
    assert manifest is not None
    assert path is not None
    later = ["project", "retention_tier", "subject", "tokens_cache_write", "memory_kb_ms", "usd_in"]
    pq.write_table(pq.ParquetFile(path).read().drop_columns(later), path)
    place = Path(path).with_name("manifest.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "version": 1}))
    assert_total(lake, None, 1, 3)
    found = ask(
        lake,
        None,
        "SELECT project, retention_tier, subject, tokens_cache_write, usd_in, tokens_in FROM usage",
    )
    assert found == [("default", "standard-365d", "", 0, None, 5)]


def test_a_file_compacted_away_while_it_is_asked_is_asked_again(lake: Lake, spool: Spool) -> None:
    put(spool, make_event(cost_nano=3))
    compact(spool, lake)
    tries = []

    def look(costs: Any) -> int:
        if not tries:  # between opening and asking, somebody publishes the day again
            tries.append(1)
            put(spool, make_event("late", cost_nano=4))
            compact(spool, lake)
        return int(costs.total().nano)

    assert answer(lake, spool, look) == 7


def test_damage_is_told(lake: Lake, spool: Spool) -> None:
    put(spool, make_event(cost_nano=3))
    compact(spool, lake)
    path = lake.usage.file(DAY)
    assert path is not None
    Path(path).write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(CostError) as caught:
        answer(lake, spool, lambda costs: costs.total())
    assert caught.value.error_code == "lake-damaged"
    assert caught.value.place
    damaged = spool.folder / "r.1-1.ndjson"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b'{"event_id": 3}\n')
    with pytest.raises(CostError) as caught:
        answer(lake, spool, lambda costs: costs.total())
    assert caught.value.error_code == "spool-corrupt"
    assert "ndjson:1" in caught.value.place


def test_nothing_is_loaded_or_left_behind(lake: Lake, spool: Spool, tmp_path: Path) -> None:
    put(spool, make_event(cost_nano=3))
    compact(spool, lake)
    with open_views(lake, spool) as connection:
        settings = dict(
            connection.execute(
                "SELECT name, value FROM duckdb_settings() WHERE name LIKE 'auto%_known_extensions'"
            ).fetchall()
        )
        assert set(settings.values()) == {"false"}
        connection.execute("SELECT * FROM usage").fetchall()
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.duckdb"))


def test_the_views_work_in_any_duckdb_as_their_text_says(lake: Lake, spool: Spool, tmp_path: Path) -> None:
    """The first file tells what others need; with that they need nothing of ours."""
    import duckdb

    put(spool, make_event(cost_nano=3))
    compact(spool, lake)
    text = read_view("usage")
    told = [line.removeprefix("--").strip() for line in text.splitlines() if line.startswith("--   ")]
    setup = " ".join(told).replace("'lake/", f"'{tmp_path}/lake/")
    with duckdb.connect() as connection:
        connection.execute(setup)
        connection.execute(text)
        assert connection.execute(TOTAL).fetchone() == (1, Decimal("3E-9"), 0)


def test_a_long_question_writes_nothing_into_our_output(repository: Path) -> None:
    """DuckDB draws its bar on stdout after two seconds, terminal or not."""
    with connect_memory() as connection:
        asked = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    assert asked == (False,)
    rooms = (repository / "maestro_dagster").rglob("*.py")
    opened = [path.name for path in rooms if "duckdb.connect(" in path.read_text(encoding="utf-8")]
    assert opened == ["duck.py"]


def test_the_wheel_carries_the_views(repository: Path) -> None:
    code = (
        "import sys\nfrom hatchling.builders.wheel import WheelBuilder\n"
        "print(*sorted(f.distribution_path for f in WheelBuilder(sys.argv[1]).recurse_included_files()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository)], capture_output=True, text=True, check=True
    )
    carried = set(done.stdout.split())
    assert {f"maestro_dagster/costs/sql/{name}.sql" for name in VIEWS} <= carried
