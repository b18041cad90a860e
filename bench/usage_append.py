"""What a durable usage event costs when eight processes append at once: one by one, and in batches of 100.

A side's processes start together; a figure is the wall time of all divided by the events of all, and every
event counts only when it would survive a power cut. What was written is counted again at the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

WRITERS = 8
BATCH = 100
Append = Callable[[Sequence[Any]], None]


def spool(folder: Path) -> dict[str, float]:
    from maestro_dagster.costs.spool import Spool, read_file

    found = _both(folder, open_spool, singles=400, batches=60)
    kept = sum(1 for _, path in Spool(folder).files() for _ in read_file(path))
    assert kept == WRITERS * (400 + 60 * BATCH)
    return found


def parquet(folder: Path) -> dict[str, float]:
    """A file an append: temporary name, fsync, rename, fsync of the folder."""
    found = _both(folder, open_parquet, singles=40, batches=20)
    assert len(list(folder.glob("*.parquet"))) == WRITERS * 60
    return found


def duckdb(folder: Path) -> dict[str, float]:
    """Open, insert, close: one process at a time has the file, the others try again."""
    import duckdb as engine

    from maestro_dagster.costs.schema import usage_schema

    with engine.connect(str(folder / "usage.duckdb")) as connection:
        connection.register("none", usage_schema().empty_table())
        connection.execute("CREATE TABLE usage AS SELECT * FROM none")
    found = _both(folder, open_duckdb, singles=3, batches=1)
    with engine.connect(str(folder / "usage.duckdb")) as connection:
        kept = connection.execute("SELECT count(*) FROM usage").fetchone()
    wanted = WRITERS * (3 + BATCH)
    if kept != (wanted,):  # a file that is opened while another process closes it: seen with DuckDB 2.0
        sys.stderr.write(f"  DuckDB has {kept} of {wanted} events that it acknowledged\n")
    return found


def open_spool(folder: Path, name: str) -> Append:
    from maestro_dagster.costs.spool import Spool

    return Spool(folder).open_run(name).append


def open_parquet(folder: Path, name: str) -> Append:
    import pyarrow.parquet as pq

    from maestro_dagster.costs.frame import frame_events, table_of

    count = 0
    table_of(frame_events([_event(name)]))  # imports and threads are nobody's share

    def append(events: Sequence[Any]) -> None:
        nonlocal count
        count += 1
        draft = folder / f".{name}-{count}"
        pq.write_table(table_of(frame_events(events)), draft, compression="zstd")
        _sync(draft)
        draft.rename(folder / f"{name}-{count}.parquet")
        _sync(folder)

    return append


def open_duckdb(folder: Path, name: str) -> Append:
    import duckdb as engine

    from maestro_dagster.costs.frame import frame_events, table_of

    table_of(frame_events([_event(name)]))

    def append(events: Sequence[Any]) -> None:
        table = table_of(frame_events(events))
        while True:
            try:
                connection = engine.connect(str(folder / "usage.duckdb"))
            except engine.IOException:
                time.sleep(0.005)
                continue
            with connection:
                connection.register("events", table)
                connection.execute("INSERT INTO usage SELECT * FROM events")
            return

    return append


def _both(folder: Path, opener: Any, singles: int, batches: int) -> dict[str, float]:
    return {"single": _measure(folder, opener, singles, 1), "batch": _measure(folder, opener, batches, BATCH)}


def _measure(folder: Path, opener: Any, times: int, size: int) -> float:
    """Milliseconds of wall time per durable event, all writers together."""
    context = get_context("spawn")
    together, spans = context.Barrier(WRITERS), context.Queue()
    processes = [
        context.Process(
            target=_work, args=(opener, folder, f"run-{size}-{number}", times, size, together, spans)
        )
        for number in range(WRITERS)
    ]
    for process in processes:
        process.start()
    found = [spans.get(timeout=200) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    wall = max(end for _, end in found) - min(begun for begun, _ in found)
    return wall * 1000 / (WRITERS * times * size)


def _work(opener: Any, folder: Path, name: str, times: int, size: int, together: Any, spans: Any) -> None:
    append = opener(folder, name)
    events = [[_event(name) for _ in range(size)] for _ in range(times)]
    together.wait()
    begun = time.monotonic()
    for batch in events:
        append(batch)
    spans.put((begun, time.monotonic()))


def _event(name: str) -> Any:
    from maestro_dagster.costs.event import UsageScope

    return UsageScope("tenant", name, "flow", "step", 1).make_event(
        "llm", provider="openai", model="gpt", tokens_in=812, tokens_out=120, cost_nano=1_234_567,
        price="catalogue@2026-01-01", wall_ms=900,
    )  # fmt: skip


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
