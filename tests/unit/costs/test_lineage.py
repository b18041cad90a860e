"""Lineage on its way from a run's end into the lake."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.ancestry import Ancestry
from maestro_dagster.costs.artifact import (
    ARTIFACT_INDEX,
    ARTIFACT_LAYOUT,
    ARTIFACTS,
    compact_lineage,
    key_of,
    list_records,
    table_records,
)
from maestro_dagster.costs.folder import LocalFolder
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.lineage import (
    LineageInput,
    LineageRecord,
    decode_record,
    encode_record,
    lineage_days,
    lineage_files,
    read_lineage,
    sum_steps,
    write_lineage,
)
from maestro_dagster.costs.report import cost_report
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.table import LakeTable
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import parse_usd

NEXT_DAY = "2026-03-02"


def digest_of(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def make_record(run_id: str = "r1", step: str = "one", **values: object) -> LineageRecord:
    plain = LineageRecord(
        run_id=run_id,
        flow="flow",
        flow_digest=digest_of("flow"),
        step=step,
        iteration=-1,
        uses="pkg:test/make@1.0.0",
        status="done",
        attempts=1,
        day=DAY,
        finished_at=f"{DAY}T10:00:00.000001Z",
        digest=digest_of(f"{run_id}/{step}"),
        media_type="text/plain",
        size=3,
        known_nano=5,
    )
    return replace(plain, **values)  # type: ignore[arg-type]


RICH = make_record(
    inputs=(LineageInput(digest_of("a"), "r0", "a", 2, DAY), LineageInput(digest_of("b"))),
    known_nano=9_000_000_000_000_000_007 // 10,
    unknown=2,
    missing=("llm openai gpt", "compute maestro"),
    failed_nano=1,
    retry_nano=2,
    reused=True,
    source_run="r0",
    source_day=DAY,
    saved_nano=None,
    tenant="ä",
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def ever(run_id: str) -> bool:
    return bool(run_id)


def test_a_record_survives_the_spool_and_the_lake() -> None:
    for record in (RICH, make_record(), make_record(digest="", known_nano=0, unknown=1)):
        assert decode_record(encode_record(record).rstrip(b"\n"), "here") == record
        assert list_records(table_records([record]), DAY) == [record]


def test_a_cost_of_which_nothing_is_known_is_null_in_the_lake() -> None:
    records = [make_record(step=str(n), known_nano=n % 2, unknown=n // 2) for n in range(4)]
    column = table_records(records).column("cost_usd").to_pylist()
    assert [None if usd is None else str(usd) for usd in column] == ["0E-9", "1E-9", None, "1E-9"]


def test_usage_adds_up_by_step_and_iteration_as_in_the_cost_report() -> None:
    events = [
        make_event(step="a", cost_nano=1),
        make_event(step="a", cost_nano=2, outcome="failed"),
        make_event(step="a", cost_nano=4, attempt=2, outcome="cancelled"),
        make_event(step="a", attempt=2, provider="openai", model="gpt"),
        make_event(step="b", cost_nano=8),
    ]
    costs = sum_steps(events)
    one = costs["a", -1]
    assert (one.known_nano, one.unknown, one.failed_nano, one.retry_nano) == (7, 1, 6, 4)
    assert one.missing == ("llm openai gpt",)
    report = cost_report(events)
    assert sum(cost.known_nano for cost in costs.values()) == parse_usd(report["known_usd"])
    assert sum(cost.failed_nano for cost in costs.values()) == parse_usd(report["failures"]["known_usd"])


def test_lineage_lies_beside_the_usage_and_is_none(spool: Spool) -> None:
    write_lineage(spool.folder, "r1", [make_record()])
    with spool.open_run("r1") as writer:
        writer.append([make_event("r1")])
    assert [run for run, _ in lineage_files(spool.folder)] == ["r1"]
    assert len(spool.files()) == len(spool.read_run("r1")) == 1
    assert lineage_days(spool.folder) == (DAY,)


def test_writing_the_same_twice_leaves_the_same_bytes(tmp_path: Path) -> None:
    path = write_lineage(tmp_path, "r1", [make_record(), RICH])
    before = path.read_bytes()
    write_lineage(tmp_path, "r1", [make_record(), RICH])
    assert path.read_bytes() == before
    write_lineage(tmp_path, "r1", [make_record(known_nano=6)])  # what is written last counts
    assert [record.known_nano for record in read_lineage(path)] == [6]


def test_a_torn_line_does_not_count_and_spoils_no_other(tmp_path: Path) -> None:
    path = write_lineage(tmp_path, "r1", [make_record()])
    line = encode_record(make_record(step="two"))
    with path.open("ab") as file:
        file.write(line[:-9])
    assert [record.step for record in read_lineage(path)] == ["one"]
    write_lineage(tmp_path, "r1", [make_record(step="three")])
    assert [record.step for record in read_lineage(path)] == ["one", "three"]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b"{}",
        encode_record(make_record()).replace(b'"known_nano":5', b'"known_nano":"5"').strip(),
        encode_record(make_record()).replace(b'"known_nano":5', b'"known_nano":true').strip(),
        encode_record(RICH).replace(b'"step":"a"', b'"stop":"a"').strip(),
        encode_record(make_record()).replace(b'"known_nano":5', b'"inputs":[1]').strip(),
    ],
)
def test_a_damaged_line_is_refused_with_its_place(tmp_path: Path, line: bytes, lake: Lake) -> None:
    path = write_lineage(tmp_path, "r1", [make_record()])
    with path.open("ab") as file:
        file.write(line + b"\n")
    before = path.read_bytes()
    with pytest.raises(CostError, match="damaged") as caught:
        compact_lineage(tmp_path, lake, DAY, ever)
    assert caught.value.place == f"{path}:2"
    assert path.read_bytes() == before
    assert lake.table(ARTIFACTS).days() == ()


def test_a_field_of_a_later_release_is_passed_over() -> None:
    line = encode_record(make_record()).replace(b'{"run_id"', b'{"later":1,"run_id"')
    assert decode_record(line.strip(), "here") == make_record()


def test_a_full_disk_writes_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lineage(tmp_path, "r1", [make_record()])
    before = path.read_bytes()
    real = os.write

    def half(handle: int, data: memoryview) -> int:
        if len(data) < 9:
            raise OSError(errno.ENOSPC, "full")
        return real(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(CostError) as caught:
        write_lineage(tmp_path, "r1", [make_record(step="two")])
    assert caught.value.error_code == "disk-full"
    assert path.read_bytes() == before


def test_a_run_is_published_when_it_has_ended_and_its_file_goes(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record(), make_record(step="late", day=NEXT_DAY)])
    write_lineage(tmp_path, "open", [make_record("open")])
    report = compact_lineage(tmp_path, lake, DAY, lambda run_id: run_id != "open")
    assert (report.rows, report.added, report.sum_nano, report.unknown) == (1, 1, 5, 0)
    assert report.removed == ()  # a part of it belongs to the next day
    second = compact_lineage(tmp_path, lake, NEXT_DAY, lambda run_id: run_id != "open")
    assert second.removed == ("r1.ndjson",)
    assert [run for run, _ in lineage_files(tmp_path)] == ["open"]
    late = compact_lineage(tmp_path, lake, DAY, ever)  # only this day is built anew
    assert (late.rows, late.added, late.removed) == (2, 1, ("open.ndjson",))
    manifest = lake.table(ARTIFACTS).manifest(NEXT_DAY)
    assert manifest is not None
    assert manifest.sha256 == second.sha256


def test_compacting_again_changes_nothing(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record(), replace(RICH, step="rich")])
    data = (tmp_path / "lineage" / "r1.ndjson").read_bytes()
    first = compact_lineage(tmp_path, lake, DAY, ever)
    again = compact_lineage(tmp_path, lake, DAY, ever)
    (tmp_path / "lineage" / "r1.ndjson").write_bytes(data)  # killed before the file was removed
    third = compact_lineage(tmp_path, lake, DAY, ever)
    assert first.sha256 == again.sha256 == third.sha256
    assert (again.added, third.added, third.removed) == (0, 0, ("r1.ndjson",))


def test_an_index_that_was_left_behind_is_not_believed(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record(), make_record(step="two")])
    compact_lineage(tmp_path, lake, DAY, ever)
    table = lake.table(ARTIFACTS).read_day(DAY)
    assert table is not None
    with lake.table(ARTIFACTS).lock_day(DAY):  # killed after the rows were published, before the index was
        lake.table(ARTIFACTS).write_day(DAY, table.slice(1))
    found = Ancestry(tmp_path, lake).find_prefix(digest_of("r1/two"))
    assert [record.step for record in found] == ["two"]
    assert Ancestry(tmp_path, lake).find_prefix(digest_of("r1/one")) == []
    compact_lineage(tmp_path, lake, DAY, ever)
    index, rows = lake.table(ARTIFACT_INDEX).manifest(DAY), lake.table(ARTIFACTS).manifest(DAY)
    assert index is not None
    assert rows is not None
    assert index.source == rows.sha256
    assert len(Ancestry(tmp_path, lake).find_prefix(digest_of("r1/two"))) == 1


def test_a_damaged_day_is_refused(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record()])
    compact_lineage(tmp_path, lake, DAY, ever)
    file = Path(str(lake.table(ARTIFACTS).file(DAY)))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CostError) as caught:
        Ancestry(tmp_path, lake).find_runs({"r1": set()})
    assert caught.value.error_code == "lake-damaged"


def test_many_row_groups_are_read_only_where_needed(tmp_path: Path, lake: Lake) -> None:
    records = [make_record(f"run-{n:05d}", f"s{n % 7}") for n in range(5000)]
    for start in range(0, 5000, 1000):
        write_lineage(tmp_path, f"file{start}", records[start : start + 1000])
    compact_lineage(tmp_path, lake, DAY, ever)
    ancestry = Ancestry(tmp_path, lake)
    wanted = [records[0], records[2047], records[2048], records[4999], records[3333]]
    times = {record.digest: "9999" for record in wanted}
    assert {each.record_id for each in ancestry.find_digests(times).values()} == {r.record_id for r in wanted}
    by_run = ancestry.find_runs({record.run_id: {DAY} for record in wanted} | {"run-0": {DAY}, "zzz": set()})
    assert by_run.keys() == {record.record_id for record in wanted}
    assert {ancestry.describe(record) for record in by_run.values()} == set(wanted)
    assert key_of(digest_of("a")) == int(digest_of("a")[7:23], 16)


def test_a_flipped_bit_in_an_index_is_refused_also_by_what_it_does_not_hold(
    tmp_path: Path, lake: Lake
) -> None:
    write_lineage(tmp_path, "r1", [make_record(step=step) for step in ("one", "two", "three")])
    compact_lineage(tmp_path, lake, DAY, ever)
    file = Path(str(lake.table(ARTIFACT_INDEX).file(DAY)))
    key = sorted(key_of(digest_of(f"r1/{step}")) for step in ("one", "two", "three"))[1]  # no statistic
    data = bytearray(file.read_bytes())
    data[data.index(key.to_bytes(8, "little"))] ^= 1
    file.write_bytes(data)
    with pytest.raises(CostError) as caught:
        Ancestry(tmp_path, lake).find_prefix(f"sha256:{key + 2:016x}")
    assert caught.value.error_code == "lake-damaged"


def test_days_in_an_older_layout_are_found_as_well(tmp_path: Path, lake: Lake) -> None:
    records = [make_record(f"run-{n:05d}", f"s{n % 7}") for n in range(3000)]
    write_lineage(tmp_path, "all", records)
    compact_lineage(tmp_path, lake, DAY, ever)
    older: dict[str, dict[str, object]] = {
        ARTIFACTS: {"row_group_size": 2048, "write_statistics": ["run_id"]},
        ARTIFACT_INDEX: {"use_dictionary": False, "column_encoding": {"key": "DELTA_BINARY_PACKED"}},
    }
    source = ""
    for name, layout in older.items():
        held = lake.table(name).read_day(DAY)
        assert held is not None
        table = LakeTable(
            LocalFolder(Path(lake.location) / name), name, order=held.column_names[:1], layout=layout
        )
        source = table.write_day(DAY, held, source=source).sha256
    ancestry = Ancestry(tmp_path, lake)
    for record in (records[0], records[2047], records[2999]):
        assert ancestry.find_prefix(record.digest)[0].record_id == record.record_id
        assert ancestry.find_runs({record.run_id: {DAY}}).keys() == {record.record_id}


def test_every_column_of_lineage_has_its_encoding(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record(missing=("llm a b",), inputs=(LineageInput("sha256:0"),))])
    compact_lineage(tmp_path, lake, DAY, ever)
    schema = pq.ParquetFile(str(lake.table(ARTIFACTS).file(DAY))).schema
    columns = {schema.column(place).path for place in range(len(schema))}
    assert columns == ARTIFACT_LAYOUT["compression"].keys()
    assert columns > set(ARTIFACT_LAYOUT["use_dictionary"])


def test_finding_lineage_in_the_lake_does_not_import_pandas(tmp_path: Path, lake: Lake) -> None:
    write_lineage(tmp_path, "r1", [make_record()])
    compact_lineage(tmp_path, lake, DAY, ever)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from maestro_dagster.costs.ancestry import Ancestry\n"
        "from maestro_dagster.costs.explain import explain_artifact\n"
        "from maestro_dagster.costs.lake import open_lake\n"
        "explain_artifact(Ancestry(Path(sys.argv[1]), open_lake(Path(sys.argv[2]))), sys.argv[3])\n"
        "assert not {'pandas', 'polars', 'duckdb'} & set(sys.modules)"
    )
    arguments = [str(tmp_path), lake.location, digest_of("r1/one")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_the_modules_import_nothing_heavy() -> None:
    code = (
        "import sys, maestro_dagster.costs.explain, maestro_dagster.costs.lake\n"
        "assert not {'polars', 'pyarrow', 'duckdb', 'numpy', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
