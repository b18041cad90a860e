"""The Iceberg copy of the lake: exact, once a day's file, and made up for after a crash."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.iceberg import NAMESPACE, SHA256, commit_days, iceberg_schema, open_catalogue
from maestro_dagster.costs.lake import USAGE, Lake, open_lake
from maestro_dagster.costs.report import sum_known
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError

NEXT = "2026-03-02"
MOST = 10**18 - 1  # nano-USD, the most that a price may be


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def add(spool: Spool, lake: Lake, run_id: str, *costs: int | None, day: str = DAY) -> None:
    with spool.open_run(run_id) as writer:
        writer.append(
            [make_event(run_id, cost_nano=nano, occurred_at=f"{day}T10:00:00.000001Z") for nano in costs]
        )
    assert compact_day(spool, lake, day, bool).balanced


def load(lake: Lake) -> Any:
    return open_catalogue(lake, "t/p").load_table((NAMESPACE, USAGE))


def snapshots(lake: Lake) -> list[Any]:
    return list(load(lake).metadata.snapshots)


def test_a_day_is_committed_once_and_late_usage_replaces_it_exactly(spool: Spool, lake: Lake) -> None:
    import duckdb

    add(spool, lake, "r1", MOST, MOST, 1, None)
    add(spool, lake, "r2", 5, day=NEXT)
    assert commit_days(lake, "t/p") == (DAY, NEXT)
    first = len(snapshots(lake))
    assert commit_days(lake, "t/p") == ()
    assert len(snapshots(lake)) == first
    add(spool, lake, "r3", 7)  # late
    assert commit_days(lake, "t/p") == (DAY,)
    table = load(lake)
    manifest = lake.usage.manifest(DAY)
    assert manifest is not None
    assert table.current_snapshot().summary[SHA256] == manifest.sha256
    rows = table.scan().to_arrow()
    assert rows.num_rows == 6
    usd = sum((each for each in rows.column("cost_usd").to_pylist() if each is not None), Decimal(0))
    known, unknown = sum_known(lake.read_events())
    assert (int(usd.scaleb(9)), rows.column("cost_usd").null_count) == (known, unknown)
    assert duckdb.sql("SELECT sum(cost_usd) FROM rows").fetchall() == [(usd,)]
    assert table.scan(row_filter=f"day = '{NEXT}'").to_arrow().num_rows == 1
    # The snapshot before is still what it was.
    before = [one for one in table.metadata.snapshots if one.summary[SHA256] != manifest.sha256]
    assert table.scan(snapshot_id=before[-1].snapshot_id).to_arrow().num_rows == 5


def test_what_a_crash_left_uncommitted_the_next_compaction_commits(spool: Spool, lake: Lake) -> None:
    add(spool, lake, "r1", 1)
    commit_days(lake, "t/p")
    add(spool, lake, "r2", 2)  # published, and the process died before it committed
    add(spool, lake, "r3", 4, day=NEXT)
    assert commit_days(lake, "t/p") == (DAY, NEXT)
    assert load(lake).scan().to_arrow().num_rows == 3
    lake.usage.remove_day(DAY)
    assert commit_days(lake, "t/p") == (DAY,)
    assert load(lake).scan().to_arrow().column("run_id").to_pylist() == ["r3"]
    assert commit_days(lake, "t/p") == ()


def test_a_commit_that_fails_changes_nothing(
    spool: Spool, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.table import Transaction

    add(spool, lake, "r1", 1)
    commit_days(lake, "t/p")
    add(spool, lake, "r2", 2)

    def die(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "set_properties", die)  # after the rows, before the commit
        with pytest.raises(CostError) as caught:
            commit_days(lake, "t/p")
    assert caught.value.error_code == "iceberg-commit"
    assert load(lake).scan().to_arrow().column("run_id").to_pylist() == ["r1"]
    assert commit_days(lake, "t/p") == (DAY,)
    assert load(lake).scan().to_arrow().num_rows == 2


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(spool: Spool, lake: Lake) -> None:
    catalogue = open_catalogue(lake, "t/p")
    catalogue.create_namespace(NAMESPACE)
    early = iceberg_schema()
    early = early.remove(early.get_field_index("subject"))
    with (
        catalogue.create_table_transaction((NAMESPACE, USAGE), early) as transaction,
        transaction.update_spec() as spec,
    ):
        spec.add_identity("day")
    add(spool, lake, "r1", 1)
    assert commit_days(lake, "t/p") == (DAY,)
    assert load(lake).scan().to_arrow().column("subject").to_pylist() == [""]


def test_a_damaged_file_is_not_committed(spool: Spool, lake: Lake) -> None:
    add(spool, lake, "r1", 1)
    file = Path(lake.usage.file(DAY) or "")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    with pytest.raises(CostError) as caught:
        commit_days(lake, "t/p")
    assert caught.value.error_code == "lake-damaged"
    assert load(lake).scan().to_arrow().num_rows == 0


def test_without_the_extra_it_is_said(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog.sql", None)
    with pytest.raises(CostError) as caught:
        commit_days(lake, "t/p")
    assert caught.value.error_code == "iceberg-missing"
    assert "maestro-dagster[iceberg]" in caught.value.remedy


def test_on_an_object_store_of_ones_own(
    spool: Spool, s3_bucket: str, new_database: Callable[[], str]
) -> None:
    """The endpoint comes from where it comes for all else: AWS_ENDPOINT_URL, a profile of the AWS tools."""
    lake, database = open_lake(f"{s3_bucket}/lake"), new_database()
    add(spool, lake, "r1", 1, 2)
    assert commit_days(lake, "t/p", database) == (DAY,)
    assert commit_days(lake, "t/p", database) == ()
    table = open_catalogue(lake, "t/p", database).load_table((NAMESPACE, USAGE))
    assert table.location().startswith(f"{s3_bucket}/lake/iceberg")
    assert table.scan().to_arrow().num_rows == 2
