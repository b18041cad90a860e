"""Forgetting a person who has rows all over a lake: destroying what links, against rewriting the files.

The lake holds 10 M rows of 10 days, 60 of them of one person. Ours destroys the row of the person in the
subject map and cuts its log; theirs rewrites every Parquet file that has rows of the person, with pyarrow, in
the same form. Both are checked: the person is gone, the sum is not. MAESTRO_BENCH_ROWS makes it less.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

DAYS = 10
ROWS = int(os.environ.get("MAESTRO_BENCH_ROWS", "10000000")) // DAYS
HITS = 6  # rows of the person in a day
PERSON = "ada@example.org"
OTHERS = 1000  # people in the map


def destroy(folder: Path) -> dict[str, float]:
    from maestro_dagster.costs.subject import SubjectMap

    subjects = SubjectMap(folder / "subjects.sqlite", folder / "keys" / "subjects.key")
    name = subjects.surrogate_for("tenant", PERSON)
    _fill(folder)
    _make_lake(folder, name)
    total, files = _total(folder), _files(folder)
    before = time.perf_counter()
    found = subjects.find(PERSON)
    gone = subjects.forget([each for _, each in found], "bench", "2026-01-01T00:00:00Z")
    took = time.perf_counter() - before
    assert [one.surrogate for one in gone] == [name]
    assert subjects.reveal(name) is None
    assert (_total(folder), _files(folder)) == (total, files)
    return {"value": took * 1000}


def rewrite(folder: Path) -> dict[str, float]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name = "f" * 32
    _make_lake(folder, name)
    total = _total(folder)
    before = time.perf_counter()
    for path in _files(folder):
        if pq.read_table(path, columns=["subject"], filters=[("subject", "=", name)]).num_rows == 0:
            continue
        table = pq.ParquetFile(path).read()
        column = table.column("subject")
        blank = pc.if_else(pc.equal(column, name), "", column)
        at = table.schema.get_field_index("subject")
        table = table.set_column(at, table.schema.field(at), blank)
        draft = path.with_name("draft")
        pq.write_table(table, draft, compression="zstd", data_page_version="2.0", write_page_checksum=True)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    took = time.perf_counter() - before
    assert _total(folder) == total
    return {"value": took * 1000}


def _fill(folder: Path) -> None:
    """Other people, in one transaction: only the map's size matters."""
    import secrets
    import sqlite3

    with sqlite3.connect(folder / "subjects.sqlite") as connection:
        connection.executemany(
            "INSERT INTO subject VALUES (?, ?, 'tenant', ?, ?)",
            [
                (
                    secrets.token_bytes(32),
                    secrets.token_hex(16),
                    secrets.token_bytes(60),
                    secrets.token_bytes(45),
                )
                for _ in range(OTHERS)
            ],
        )
    connection.close()


def _make_lake(folder: Path, name: str) -> None:
    import pyarrow as pa

    sys.path.insert(0, str(Path(__file__).parent))
    import usage_data

    for number, day in enumerate(usage_data.day_range(DAYS)):
        table = usage_data.make_day(day, ROWS, number)
        at = table.schema.get_field_index("subject")
        values = table.column(at).to_numpy(zero_copy_only=False)
        values[:: max(1, ROWS // HITS)] = name
        table = table.set_column(at, table.schema.field(at), pa.array(values, pa.string()))
        usage_data.publish_day(folder / "lake", day, table)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "lake").rglob("part-*.parquet"))


def _total(folder: Path) -> object:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return sum(pc.sum(pq.read_table(path, columns=["cost_usd"]).column(0)).as_py() for path in _files(folder))
