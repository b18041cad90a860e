from __future__ import annotations

import csv
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.export import export_usage, measure_export
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.schema import COLUMNS
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.statement import FORMATS
from maestro_dagster.costs.usage_day import list_usage_days
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import NANO


def ended(_: str) -> bool:
    return True


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def fill(spool: Spool, count: int = 200) -> list[UsageEvent]:
    """Events of two days, each settled; a tenth without a price."""
    rng = random.Random(7)
    events = [
        make_event(
            f"run-{number % 5}",
            event_id=f"e{number}",
            step=f"step-{number % 3}",
            kind=("llm", "compute", "storage")[number % 3],
            provider="p",
            model="m" if number % 3 == 0 else "",
            tokens_in=rng.randrange(1000),
            tokens_out=rng.randrange(1, 1000),
            cpu_ms=rng.randrange(1, 99),
            bytes_out=rng.randrange(1, 10**9),
            cost_nano=None if number % 10 == 0 else rng.randrange(10**9),
            price="list",
            occurred_at=f"2026-03-0{1 + number % 2}T{number % 24:02d}:00:00.{number:06d}Z",
        )
        for number in range(count)
    ]
    for run in {event.run_id for event in events}:
        with spool.open_run(run) as writer:
            writer.append([event for event in events if event.run_id == run])
    return events


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_the_exact_sum_and_is_the_same_before_and_after_compaction(
    form: str, spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    events = fill(spool)
    expected = sum(event.cost_nano or 0 for event in events)
    target = tmp_path / "usage"
    fresh = export_usage(list_usage_days(lake, spool), target, form)
    assert (fresh.sum_nano, fresh.events, fresh.unknown) == (expected, 200, 20)
    assert [source.fresh_rows for source in fresh.sources] == [100, 100]
    with spool.open_run("run-0") as writer:  # late, for the spool and the lake together
        late = make_event("run-0", event_id="late", cost_nano=5, occurred_at=f"{DAY}T23:59:59.000001Z")
        compact_day(spool, lake, DAY, ended)
        writer.append([late])
    mixed = export_usage(list_usage_days(lake, spool), target, form)
    assert (mixed.sum_nano, mixed.sources[0].fresh_rows) == (expected + 5, 1)
    for day in (DAY, "2026-03-02"):
        compact_day(spool, lake, day, ended)
    compacted = export_usage(list_usage_days(lake, spool), target, form)
    assert compacted.digest == mixed.digest
    again = export_usage(list_usage_days(lake), target, form)
    assert again == compacted
    assert all(source.digest for source in again.sources)
    assert sum(lake.usage.manifest(day).sum_nano for day in lake.usage.days()) == again.sum_nano  # type: ignore[union-attr]
    assert measure_export(target, form)[1] == again.sum_nano
    one = export_usage(list_usage_days(lake, since=DAY, until=DAY), target, form, since=DAY, until=DAY)
    assert (one.events, one.first_day, one.last_day) == (101, DAY, DAY)


def test_a_reserve_that_was_settled_after_compaction_counts_once(
    spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    intent = make_event("run", event_id="call", phase="intent", cost_nano=100, outcome="open")
    with spool.open_run("run") as writer:
        writer.append([intent])
        compact_day(spool, lake, DAY, ended)
        writer.append([make_event("run", event_id="call", cost_nano=60)])
    told = export_usage(list_usage_days(lake, spool), tmp_path / "u.csv", "csv")
    assert (told.events, told.sum_nano) == (1, 60)


def test_a_reserve_whose_settlement_is_in_the_lake_is_nothing_new(
    spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    with spool.open_run("run") as writer:
        writer.append([make_event("run", event_id="call", cost_nano=60)])
    compact_day(spool, lake, DAY, ended)
    with spool.open_run("run") as writer:
        writer.append([make_event("run", event_id="call", phase="intent", cost_nano=100, outcome="open")])
        told = export_usage(list_usage_days(lake, spool), tmp_path / "u.csv", "csv")
    assert (told.events, told.sum_nano, told.sources[0].fresh_rows) == (1, 60, 0)


def test_a_name_is_no_formula_and_an_unknown_cost_is_no_zero(
    spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    names = ("=cmd()", "+1", "-1", "@x", "\tx", "\uff1dcmd()", "plain", 'a "quoted", one')
    events = [
        make_event("run", event_id=f"{number}", model=name, cost_nano=NANO + 1)
        for number, name in enumerate(names)
    ]
    with spool.open_run("run") as writer:
        writer.append([*events, make_event("run", event_id="unknown", cost_nano=None)])
    told = export_usage(list_usage_days(lake, spool), tmp_path / "u.csv", "csv")
    assert (told.rows, told.unknown) == (len(names) + 1, 1)
    with (tmp_path / "u.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["model"] for row in rows[:-1]] == [*(f"'{name}" for name in names[:6]), *names[6:]]
    assert [row["cost_usd"] for row in rows] == ["1.000000001"] * len(names) + [""]
    assert rows[0]["occurred_at"] == f"{DAY}T10:00:00.000000Z"
    export_usage(list_usage_days(lake, spool), tmp_path / "f.csv", "focus-csv")
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        assert {row["SkuMeter"] for row in csv.DictReader(file)} == {"Model Calls"}


def test_other_tools_read_the_parquet(spool: Spool, lake: Lake, tmp_path: Path) -> None:
    import duckdb
    import polars as pl

    events = fill(spool)
    export_usage(list_usage_days(lake, spool), tmp_path / "u.parquet", "parquet")
    expected = Decimal(sum(event.cost_nano or 0 for event in events)).scaleb(-9)
    query = "SELECT sum(cost_usd), count(*), count(cost_usd) FROM read_parquet(?)"
    assert duckdb.connect().execute(query, [str(tmp_path / "u.parquet")]).fetchone() == (expected, 200, 180)
    assert pl.read_parquet(tmp_path / "u.parquet")["cost_usd"].sum() == expected


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_used_is_a_file_without_rows(form: str, lake: Lake, tmp_path: Path) -> None:
    told = export_usage(list_usage_days(lake), tmp_path / "empty", form)
    assert (told.rows, told.events, told.sum_nano, told.first_day) == (0, 0, 0, None)
    assert measure_export(tmp_path / "empty", form) == (0, 0, 0)


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    fill(spool)
    compact_day(spool, lake, DAY, ended)
    folder = tmp_path / "out"
    folder.mkdir()
    export_usage(list_usage_days(lake), folder / "u.csv", "csv")
    before = (folder / "u.csv").read_bytes()
    file = Path(lake.usage.file(DAY) or "")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for form in ("csv", "focus"):
        with pytest.raises(CostError) as damaged:
            export_usage(list_usage_days(lake), folder / "u.csv", form)
        assert damaged.value.error_code == "lake-damaged"
    file.unlink()
    with pytest.raises(CostError) as moved:
        export_usage(list_usage_days(lake), folder / "u.csv", "csv")
    assert moved.value.error_code == "day-moved"
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("u.csv", before)]
    with pytest.raises(CostError) as missing:
        export_usage(list_usage_days(lake), tmp_path / "missing" / "u.csv", "csv")
    assert missing.value.error_code == "export-write"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_full_disk_is_called_so(form: str, spool: Spool, lake: Lake, monkeypatch: Any) -> None:
    fill(spool)
    # The draft has a name of its own beside the target: here it is the device that is always full.
    monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(CostError) as full:
        export_usage(list_usage_days(lake, spool), Path("/dev/full"), form)
    assert full.value.error_code == "disk-full"


def test_nothing_heavy_is_imported_before_an_export() -> None:
    code = (
        "import sys\n"
        "from maestro_dagster.costs import export, focus, statement, usage_day, webhook\n"
        "import maestro_dagster.project.export, maestro_dagster.cli.cost_export\n"
        "heavy = {'polars', 'pyarrow', 'duckdb', 'aiohttp', 'dagster', 'pandas', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
