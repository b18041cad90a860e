"""What one artifact cost with all that it was made of, out of a lake of 100 M usage events.

90 days, 5.5 M runs of 4 steps and 20 events: 20 M lineage records. Inside a run a step reads up to 3 steps
before it; the first step of a run reads 3 results of other runs of the days before, known by digest only.
The artifact asked for is 20 steps deep, 10 by the shortest way: 121 runs, 484 records over many days.

Both sides answer in a fresh process, imports included, and must give the same sum to the nano-dollar.
MAESTRO_BENCH_EVENTS sets the number of events, MAESTRO_BENCH_ARTIFACTS takes a folder made before.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

EVENTS = int(os.environ.get("MAESTRO_BENCH_EVENTS", "100000000"))
DAYS, STEPS, TIERS, FAN_IN, PER_RUN = 90, 4, 5, 3, 20
BASES = 6  # days that are generated; the others repeat them with runs of their own
PATIENCE = 120.0  # seconds that the other side gets
_DATA = "MAESTRO_BENCH_DATA"


def prepare(folder: Path) -> None:
    """The lake of both sides, or links to one that is there."""
    if place := os.environ.get("MAESTRO_BENCH_ARTIFACTS"):
        for name in ("lake", "root"):
            (folder / name).symlink_to(Path(place).resolve() / name)
        return
    (folder / "bases").mkdir()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_make_base, [str(folder)] * BASES, range(BASES)))
        results = list(pool.map(_make_day, [str(folder)] * DAYS, range(DAYS)))
    (folder / "root").write_text([each for each in results if each][-1], encoding="utf-8")


def maestro(folder: Path) -> dict[str, float]:
    """`maestro cost explain`, without the command line around it."""
    del folder
    place = Path(os.environ[_DATA])
    digest = (place / "root").read_text()
    began, began_cpu = time.perf_counter(), time.process_time()
    from maestro_dagster.costs.ancestry import Ancestry
    from maestro_dagster.costs.explain import explain_artifact
    from maestro_dagster.costs.lake import open_lake

    value = explain_artifact(Ancestry(place / "spool", open_lake(place / "lake")), digest)
    took, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    assert value["without_record"] == []
    _note(place, "maestro", value["total"]["known_usd"], value["lineage"])
    return {"value": took, "cpu": cpu, "records": value["lineage"]["records"]}


def recursive_sql(folder: Path) -> dict[str, float]:
    """A recursive query over the same Parquet files, priced from the raw usage; given up after a while."""
    del folder
    place = Path(os.environ[_DATA])
    digest = (place / "root").read_text()
    began = time.perf_counter()
    import duckdb

    connection = duckdb.connect()
    timer = threading.Timer(PATIENCE, connection.interrupt)
    timer.start()
    try:
        row = connection.execute(_QUERY.format(lake=place / "lake"), [digest]).fetchone()
        assert row is not None
        _note(place, "recursive_sql", format(row[0], "f"), {"records": row[1]})
    except duckdb.InterruptException:
        pass
    finally:
        timer.cancel()
    return {"value": time.perf_counter() - began}


_QUERY = """
WITH RECURSIVE made AS (
  SELECT digest FROM (SELECT unnest([?]) AS digest)
  UNION
  SELECT unnest(inputs).digest FROM read_parquet('{lake}/cube_artifact/*/*.parquet') JOIN made USING (digest)
), steps AS (
  SELECT DISTINCT run_id, step FROM read_parquet('{lake}/cube_artifact/*/*.parquet') JOIN made USING (digest)
)
SELECT sum(cost_usd), (SELECT count(*) FROM steps)
FROM read_parquet('{lake}/usage_daily/*/*.parquet') u SEMI JOIN steps USING (run_id, step)
"""


def _note(place: Path, side: str, usd: str, lineage: dict[str, Any]) -> None:
    """Both sides must answer the same; who answers first leaves its answer for the other."""
    from decimal import Decimal

    print(f"  {side}: {usd} USD, {lineage}", file=sys.stderr)
    answer = place / "answer"
    if not answer.exists():
        answer.write_text(usd)
    assert Decimal(answer.read_text()) == Decimal(usd), (answer.read_text(), usd)


def _make_base(folder: str, seed: int) -> None:
    """A day of usage whose steps are 4 to a run, and what each step of it cost."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq
    import usage_data

    table = usage_data.make_day("2026-01-01", EVENTS // DAYS, seed)
    place = table.column_names.index("step")
    steps = table.column("step").combine_chunks().dictionary_encode()
    names = [f"{name[:-1]}{int(name[-1]) // (8 // STEPS)}" for name in steps.dictionary.to_pylist()]
    table = table.set_column(place, table.schema.field("step"), pa.array(names).take(steps.indices))
    bases = Path(folder) / "bases"
    pq.write_table(table, bases / f"usage-{seed}.parquet", compression="lz4")
    cost = (pl.col("cost_usd") * 10**9).cast(pl.Int64)
    wanted = ("run_id", "tenant", "project", "env", "flow", "step", "cost_usd", "outcome", "attempt")
    frame = pl.from_arrow(table.select(list(wanted)))
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(cost.alias("nano"))
    summed = (
        frame.group_by("run_id", "step")
        .agg(
            pl.col("tenant", "project", "env", "flow").first(),
            pl.col("nano").sum(),
            pl.col("nano").null_count().alias("unknown"),
            pl.col("nano").filter(pl.col("outcome") != "ok").sum().alias("failed"),
            pl.col("nano").filter(pl.col("attempt") > 1).sum().alias("retry"),
        )
        .sort("run_id", "step")
    )
    whole = summed.filter(pl.len().over("run_id") == STEPS)
    whole.write_parquet(bases / f"steps-{seed}.parquet", compression="lz4")


def _make_day(folder: str, number: int) -> str:
    """Usage and lineage of a day; gives the digest of a result that is made of as much as any."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import usage_data

    from maestro_dagster.costs.artifact import ARTIFACTS, write_index
    from maestro_dagster.costs.lake import open_lake

    day, place = usage_data.day_range(DAYS)[number], Path(folder)
    base = place / "bases" / f"usage-{number % BASES}.parquet"
    table = pq.read_table(base)
    table = table.set_column(
        table.column_names.index("run_id"), table.schema.field("run_id"), _of_day(table.column("run_id"), day)
    )
    shift = pa.scalar(_midnight(day) - _midnight("2026-01-01"), pa.duration("us"))
    times = table.column("occurred_at")
    table = table.set_column(
        table.column_names.index("occurred_at"), table.schema.field("occurred_at"), pc.add(times, shift)
    )
    usage_data.publish_day(place / "lake", day, table)
    steps = pl.read_parquet(place / "bases" / f"steps-{number % BASES}.parquet")
    rows = _lineage(place, day, number, steps)
    lake = open_lake(place / "lake")
    with lake.table(ARTIFACTS).lock_day(day):
        manifest = lake.table(ARTIFACTS).write_day(day, rows)
        write_index(lake, day, manifest, rows)
    last = rows.num_rows // STEPS - 1
    whole = last - last % TIERS - 1  # a run of the last tier
    return str(rows.column("digest")[whole * STEPS + STEPS - 1].as_py()) if number > (TIERS - 1) * 7 else ""


def _lineage(place: Path, day: str, number: int, steps: pl.DataFrame) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from maestro_dagster.costs.artifact import artifact_schema

    size = steps.height
    random = np.random.default_rng([5, number])
    run_id = _of_day(steps["run_id"].to_arrow(), day)
    step = steps["step"].to_arrow()
    digests = _hex(_digests(number, size))
    inputs = _inputs(place, day, number, random, digests, run_id, step)
    text = {
        "flow_digest": "sha256:" + "0" * 64,
        "uses": "pkg:llm/generate@1.0.0",
        "status": "done",
        "media_type": "text/plain",
        "source_run": "",
        "source_day": "",
    }
    owner = ("tenant", "project", "env", "flow")
    nothing = pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, np.int32)), pa.array([], pa.string()))
    moment = _midnight(day) + np.arange(size) * 100_000
    columns: dict[str, Any] = {name: steps[name].to_arrow().cast(pa.string()) for name in owner}
    columns |= {name: _same(value, size) for name, value in text.items()}
    columns |= {
        "run_id": run_id,
        "step": step.cast(pa.string()),
        "iteration": pa.array(np.full(size, -1, np.int32)),
        "attempts": pa.array(np.ones(size, np.int32)),
        "digest": digests,
        "size": pa.array(random.integers(1, 10**6, size)),
        "unknown": pa.array(steps["unknown"].to_numpy().astype(np.int64)),
        "reused": pa.array(np.zeros(size, bool)),
        "cost_usd": _usd(steps["nano"].to_numpy()),
        "failed_usd": _usd(steps["failed"].to_numpy()),
        "retry_usd": _usd(steps["retry"].to_numpy()),
        "saved_usd": _usd(np.zeros(size, np.int64)),
        "missing": nothing,
        "inputs": inputs,
        "finished_at": pa.array(moment).cast(pa.timestamp("us", tz="UTC")),
    }
    schema = artifact_schema()
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _inputs(
    place: Path,
    day: str,
    number: int,
    random: np.random.Generator,
    digests: pa.Array,
    run_id: pa.Array,
    step: pa.Array,
) -> pa.Array:
    """Of each step up to 3 before it in its run; of a run's first step 3 results of an earlier day."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    size = len(digests)
    runs = size // STEPS
    own = np.arange(size)
    slot = own % STEPS
    before = [np.where(slot > back, own - back - 1, -1) for back in range(FAN_IN)]
    inner = np.stack(before, axis=1)
    tier = np.arange(runs) % TIERS
    outer = np.full((runs, FAN_IN), -1)  # rows in `elsewhere`
    elsewhere, offset = [], 0
    for back in range(1, 8):
        if number - back < 0:
            break
        held = pq.read_metadata(place / "bases" / f"steps-{(number - back) % BASES}.parquet").num_rows
        elsewhere.append(_digests(number - back, held))
        chosen = (np.arange(runs)[:, None] + np.arange(FAN_IN)) % 7 == back - 1
        run = random.integers(0, held // STEPS // TIERS - 1, (runs, FAN_IN)) * TIERS + (tier - 1)[:, None]
        outer = np.where(chosen & (tier > 0)[:, None], offset + run * STEPS + STEPS - 1, outer)
        offset += held
    counts = (inner >= 0).sum(axis=1)
    counts[::STEPS] = (outer >= 0).sum(axis=1)
    everything = pa.concat_arrays([digests, _hex(np.concatenate(elsewhere))]) if elsewhere else digests
    whole = inner.copy()
    whole[::STEPS] = np.where(outer >= 0, outer + size, -1)
    flat = whole[whole >= 0]
    inside = flat < size
    local = pa.array(np.where(inside, flat, 0))
    blank = pa.array(~inside)
    made_of = pa.StructArray.from_arrays(
        [
            everything.take(pa.array(flat)),
            pc.if_else(blank, "", run_id.take(local)),
            pc.if_else(blank, "", step.cast(pa.string()).take(local)),
            pa.array(np.full(len(flat), -1, np.int32)),
            pc.if_else(blank, "", day),
        ],
        names=["digest", "run_id", "step", "iteration", "day"],
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), made_of)


def _digests(number: int, size: int) -> np.ndarray:
    import numpy as np

    return np.random.default_rng([7, number]).integers(0, 256, (size, 32), dtype=np.uint8)


def _hex(raw: np.ndarray) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.empty((len(raw), 71), np.uint8)
    text[:, :7] = np.frombuffer(b"sha256:", np.uint8)
    text[:, 7::2], text[:, 8::2] = digits[raw >> 4], digits[raw & 15]
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * 71
    return pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _of_day(runs: Any, day: str) -> pa.Array:
    """The same runs under names of that day."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = (runs.combine_chunks() if isinstance(runs, pa.ChunkedArray) else runs).cast(pa.string())
    return pc.binary_join_element_wise(day.replace("-", ""), pc.utf8_slice_codeunits(text, 8), "")


def _usd(nano: np.ndarray) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    wide = np.zeros((len(nano), 2), np.int64)
    wide[:, 0] = nano
    return pa.Array.from_buffers(pa.decimal128(18, 9), len(nano), [None, pa.py_buffer(wide)])


def _same(value: str, size: int) -> pa.Array:
    import pyarrow as pa

    return pa.repeat(pa.scalar(value), size)


def _midnight(day: str) -> int:
    import numpy as np

    return int(np.datetime64(day, "us").astype(np.int64))
