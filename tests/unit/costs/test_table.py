from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.folder import LocalFolder
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.schema import COLUMNS
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.table import LakeTable, measure
from maestro_dagster.errors import CostError


@pytest.fixture(params=["folder", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake" if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def cube(*rows: tuple[str, str, int]) -> object:
    import pyarrow as pa

    return pa.table(
        {
            "tenant": [tenant for tenant, _, _ in rows],
            "cost_usd": pa.array([Decimal(usd) for _, usd, _ in rows], pa.decimal128(28, 9)),
            "unknown": pa.array([unknown for _, _, unknown in rows], pa.int64()),
        }
    )


def test_a_table_is_published_day_by_day(lake: Lake) -> None:
    table = lake.table("cube_day_tenant")
    assert (table.days(), table.files(), table.manifest(DAY), table.file(DAY)) == ((), (), None, None)
    assert table.read_day(DAY) is None
    with table.lock_day(DAY):
        manifest = table.write_day(DAY, cube(("b", "1.5", 1), ("a", "0.000000001", 2)), source="abc")
    assert (manifest.rows, manifest.sum_nano, manifest.unknown, manifest.source) == (
        2, 1_500_000_001, 3, "abc",
    )  # fmt: skip
    assert table.verify_day(DAY) == manifest == open_lake(lake.location).table(table.name).manifest(DAY)
    assert table.days() == (DAY,)
    assert table.files(since=DAY, until=DAY) == (table.file(DAY),)
    assert table.files(since="2026-03-02") == table.files(until="2026-02-28") == ()
    read = table.read_day(DAY, ["tenant"])
    assert read is not None
    assert read.to_pydict() == {"tenant": ["a", "b"]}  # in the order of what it is grouped by
    filtered = table.read_day(DAY, filters=[("tenant", "=", "b")])
    assert filtered is not None
    assert measure(filtered) == (1_500_000_000, 1)
    with table.lock_day(DAY):
        table.remove_day(DAY)
    assert table.days() == ()
    assert not any(name.endswith(".parquet") for name in table.folder(DAY).names())


def test_what_retention_removed_stays_counted_when_a_day_is_rebuilt(lake: Lake) -> None:
    table = lake.table("t")
    table.write_day(DAY, cube(("a", "1", 0)), retired={"rows": 5, "sum_nano": 7, "unknown": 1})
    assert table.write_day(DAY, cube(("a", "2", 0))).retired == {"rows": 5, "sum_nano": 7, "unknown": 1}


def test_sums_beyond_the_usual_precision_are_exact() -> None:
    import pyarrow as pa

    wide = pa.array([Decimal("9" * 19 + ".999999999"), Decimal("0.000000002")], pa.decimal128(38, 9))
    assert measure(pa.table({"cost_usd": wide})) == (10**28 + 1, 0)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"day": 1}', b"\xff"])
def test_a_damaged_manifest_is_named(lake: Lake, text: bytes) -> None:
    table = lake.table("t")
    table.write_day(DAY, cube(("a", "1", 0)))
    table.folder(DAY).put("manifest.json", text)
    with pytest.raises(CostError) as caught:
        table.manifest(DAY)
    assert caught.value.error_code == "lake-damaged"
    assert "manifest.json" in caught.value.place


def test_a_file_of_the_first_version_is_read_with_what_its_columns_meant(spool: Spool, lake: Lake) -> None:
    with spool.open_run("run-1") as writer:
        writer.append([make_event(cost_nano=3, event_id="a"), make_event(cost_nano=None, event_id="b")])
    compact_day(spool, lake, DAY, lambda _: True)
    whole = lake.usage.read_day(DAY)
    assert whole is not None
    older = LakeTable(lake.usage._folder, "usage_daily")
    older.write_day(DAY, whole.select(list(COLUMNS[: COLUMNS.index("project")])))
    read = lake.usage.read_day(DAY)
    assert read is not None
    assert read.equals(whole)
    assert read.column_names == list(COLUMNS)
    assert lake.usage.read_day(DAY, ["project", "cost_usd"], [("project", "=", "default")]).num_rows == 2  # type: ignore[union-attr]
    with spool.open_run("run-2") as writer:
        writer.append([replace(make_event("run-2", cost_nano=4), project="other")])
    result = compact_day(spool, lake, DAY, lambda _: True)
    assert (result.rows, result.sum_nano, result.unknown, result.balanced) == (3, 7, 1, True)


def test_a_reader_never_sees_half_a_day_and_drafts_of_the_dead_are_removed(tmp_path: Path) -> None:
    table = open_lake(tmp_path).table("t")
    table.write_day(DAY, cube(("a", "1", 0)))
    folder = table.folder(DAY)
    assert isinstance(folder, LocalFolder)
    (folder.path / ".draft-1-part-x.parquet").write_bytes(b"half")
    (folder.path / "part-0123456789abcdef.parquet").write_bytes(b"written, never swapped in")
    assert measure(table.read_day(DAY)) == (10**9, 0)
    table.write_day(DAY, cube(("a", "2", 0)))
    manifest = table.manifest(DAY)
    assert manifest is not None
    assert folder.names() == ("manifest.json", manifest.file)
