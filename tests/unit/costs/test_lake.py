from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day, prune_spool, read_usage, spool_days
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, lake_total, open_lake
from maestro_dagster.costs.report import cost_report, sum_known
from maestro_dagster.costs.schema import COLUMNS, usage_schema
from maestro_dagster.costs.spool import Spool, encode_event
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import parse_usd

FULL = os.environ.get("MAESTRO_SOAK") == "1"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def ended(_: str) -> bool:
    return True


def live(_: str) -> bool:
    return False


def write(spool: Spool, run_id: str, *events: UsageEvent) -> None:
    with spool.open_run(run_id) as writer:
        writer.append(events)


def test_a_day_in_the_lake_costs_what_it_cost_in_the_spool(spool: Spool, lake: Lake) -> None:
    rng = random.Random(7)
    for number in range(20):
        costs = [rng.choice([None, rng.randrange(10**12), 1]) for _ in range(300 if FULL else 30)]
        write(spool, f"run-{number}", *(make_event(f"run-{number}", cost_nano=cost) for cost in costs))
    reports = {run: cost_report(spool.read_run(run)) for run in spool.runs()}
    events = [event for run in spool.runs() for event in spool.read_run(run)]
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, result.unknown) == sum_known(events)
    assert result.rows == result.added == len(events)
    assert result.balanced
    for run, report in reports.items():
        assert lake_total(lake, run)[0] == parse_usd(report["known_usd"])
    assert read_usage(spool, lake) == sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    assert spool.files() == ()  # nothing is left to compact, and nothing was lost


def test_the_file_has_the_committed_schema_and_order_and_no_float(spool: Spool, lake: Lake) -> None:
    import pyarrow.parquet as pq

    write(spool, "run-1", *(make_event(cost_nano=number, step=f"s{9 - number}") for number in range(9)))
    compact_day(spool, lake, DAY, ended)
    path = Path(lake.usage.file(DAY) or "")
    table = pq.ParquetFile(path).read()
    assert table.schema.equals(usage_schema(), check_metadata=False)
    assert table.schema.metadata[b"maestro.usage.version"] == b"2"
    assert table.column_names == list(COLUMNS)
    assert not [field for field in table.schema if "float" in str(field.type) or "double" in str(field.type)]
    rows = table.select(["tenant", "occurred_at", "event_id"]).to_pylist()
    assert rows == sorted(rows, key=lambda row: tuple(row.values()))
    assert sum(table.column("cost_usd").to_pylist()) == Decimal("0.000000036")
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_compacting_again_changes_nothing_and_late_events_count_once(spool: Spool, lake: Lake) -> None:
    first = [make_event(cost_nano=1) for _ in range(3)]
    write(spool, "run-1", *first)
    compact_day(spool, lake, DAY, live)
    before = lake.usage.manifest(DAY)
    assert compact_day(spool, lake, DAY, live).added == 0
    assert lake.usage.manifest(DAY) == before
    write(spool, "run-1", *first[:2], make_event(cost_nano=10))  # a duplicate delivery and a late one
    result = compact_day(spool, lake, DAY, ended)
    assert (result.rows, result.sum_nano, result.added) == (4, 13, 1)
    path = Path(lake.usage.file(DAY) or "")
    assert list(path.parent.glob("*.parquet")) == [path]  # who reads by pattern counts nothing twice
    assert result.balanced


def test_an_open_call_of_a_live_run_waits_and_of_an_ended_one_counts_at_its_reserve(
    spool: Spool, lake: Lake
) -> None:
    write(spool, "run-1", make_event(event_id="a", phase="intent", cost_nano=100), make_event(cost_nano=1))
    result = compact_day(spool, lake, DAY, live)
    assert (result.rows, result.waiting, result.sum_nano) == (1, 1, 1)
    result = compact_day(spool, lake, DAY, ended)
    assert (result.rows, result.waiting, result.sum_nano) == (2, 0, 101)
    write(spool, "run-1", make_event(event_id="a", phase="settled", cost_nano=30))  # it came after all
    result = compact_day(spool, lake, DAY, ended)
    assert (result.rows, result.sum_nano, result.balanced) == (2, 31, True)


def test_an_intent_left_alone_in_the_spool_never_undoes_its_settlement(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(event_id="a", phase="settled", cost_nano=30))
    compact_day(spool, lake, DAY, ended)
    write(spool, "run-1", make_event(event_id="a", phase="intent", cost_nano=100))
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, result.balanced) == (30, True)
    assert spool.files() == ()


def test_spool_files_stay_until_all_their_days_are_published(spool: Spool, lake: Lake) -> None:
    other = "2026-03-02"
    write(
        spool,
        "run-1",
        make_event(cost_nano=1),
        make_event(cost_nano=2, occurred_at=f"{other}T00:00:00.000000Z"),
    )
    assert spool_days(spool) == (DAY, other)
    assert compact_day(spool, lake, DAY, ended).removed == ()
    assert len(compact_day(spool, lake, other, ended).removed) == 1
    assert lake_total(lake, "run-1") == (3, 0)


def test_a_file_that_is_being_written_is_not_removed(spool: Spool, lake: Lake) -> None:
    with spool.open_run("run-1") as writer:
        writer.append([make_event(cost_nano=1)])
        assert compact_day(spool, lake, DAY, ended).removed == ()
        writer.append([make_event(cost_nano=2)])
    assert len(compact_day(spool, lake, DAY, ended).removed) == 1
    assert lake_total(lake, "run-1") == (3, 0)


def test_a_cost_that_the_lake_does_not_have_keeps_its_file(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(event_id="a", cost_nano=1))
    compact_day(spool, lake, DAY, live)
    for _, path in spool.files():
        path.write_bytes(encode_event(make_event(event_id="a", cost_nano=2)))
    assert prune_spool(spool, lake, ended) == ()


def test_a_damaged_spool_publishes_nothing(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(cost_nano=1))
    path = spool.files()[0][1]
    path.write_bytes(b"{]}\n" + path.read_bytes())
    with pytest.raises(CostError) as caught:
        compact_day(spool, lake, DAY, ended)
    assert caught.value.error_code == "spool-corrupt"
    assert lake.usage.days() == ()


def test_every_flipped_byte_of_a_day_is_found(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(cost_nano=1))
    compact_day(spool, lake, DAY, ended)
    path = Path(lake.usage.file(DAY) or "")
    data = path.read_bytes()
    for position in range(0, len(data), 1 if FULL else 199):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        with pytest.raises(CostError) as caught:
            lake.usage.verify_day(DAY)
        assert caught.value.error_code == "lake-damaged"
    path.write_bytes(data)
    lake.usage.verify_day(DAY)
    manifest = path.parent / "manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(value | {"sum_nano": 2}))
    with pytest.raises(CostError):
        lake.usage.verify_day(DAY)


def test_a_cost_beyond_the_column_is_refused_before_anything_is_written(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(cost_nano=10**18))
    with pytest.raises(CostError) as caught:
        compact_day(spool, lake, DAY, ended)
    assert caught.value.error_code == "event-invalid"
    assert lake.usage.days() == ()


@pytest.mark.parametrize("day", ["", "2026-3-1", "../..", "2026-02-30", "20260301"])
def test_a_day_is_a_day(spool: Spool, lake: Lake, day: str) -> None:
    with pytest.raises(CostError) as caught:
        compact_day(spool, lake, day, ended)
    assert caught.value.error_code == "day-invalid"


def test_a_url_that_nothing_here_can_open_is_refused() -> None:
    with pytest.raises(CostError) as caught:
        open_lake("nothing://user:secret@bucket/lake")
    assert caught.value.error_code == "lake-location"
    assert "secret" not in str(caught.value)


_COMPACTOR = """
import sys
from pathlib import Path
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.lake import open_lake
root = Path(sys.argv[1])
import maestro_dagster.costs.frame, polars, pyarrow.parquet
print("ready", flush=True)
while True:
    compact_day(root / "spool", open_lake(root / "lake"), sys.argv[2], lambda run: True)
"""


@pytest.mark.slow
def test_a_compactor_killed_at_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    spool, lake, rng = Spool(tmp_path / "spool"), open_lake(tmp_path / "lake"), random.Random(3)
    expected = 0
    for round_ in range(30 if FULL else 2):
        process = subprocess.Popen(
            [sys.executable, "-c", _COMPACTOR, str(tmp_path), DAY], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(5):
            cost = rng.randrange(10**6)
            write(spool, f"run-{round_}-{number}", make_event(f"run-{round_}-{number}", cost_nano=cost))
            expected += cost
        try:
            process.wait(timeout=rng.uniform(0.01, 0.2))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
    assert sum_known(read_usage(spool, lake)) == (expected, 0)
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, result.balanced) == (expected, True)
    assert [path.name for path in (tmp_path / "lake" / "usage_daily" / f"day={DAY}").glob("*.parquet")] == [
        result.file
    ]
