"""What each model cost on each day: 50 M usage events of 90 days in a lake, on raw usage and on a cube.

MAESTRO_BENCH_ROWS sets the number of events, MAESTRO_BENCH_LAKE takes a lake that was made before. Ours is
SQL on the views that `maestro cost` opens: Parquet files that are read, decompressed and grouped, exact to
the nano-dollar. The files are in the page cache, since every side asks once before it is measured.

The floor is of the same rows the money in nano-USD (int64) and the number of the model (int32), in two
arrays in memory, each added up once by one thread. No file, no decompression, no groups. Each side gives
the fastest of three; all of them have to find the same sum.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maestro_dagster.costs.lake import Lake

ROWS = int(os.environ.get("MAESTRO_BENCH_ROWS", "50000000"))
DAYS = 90
ASKED = 3
QUESTION = {
    "usage": "SELECT day, model, sum(cost_usd) FROM usage GROUP BY ALL",
    "cube": "SELECT day, model, sum(cost_usd) FROM cube_day_model GROUP BY ALL",
}


def prepare(folder: Path) -> None:
    """The lake and its cubes, or a link to one that is there."""
    if place := os.environ.get("MAESTRO_BENCH_LAKE"):
        (folder / "lake").symlink_to(Path(place).resolve())
    else:
        from usage_data import day_range

        days = day_range(DAYS)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(_make_day, [str(folder / "lake")] * DAYS, days))
    from maestro_dagster.costs.cube import build_cubes, stale_days

    lake = _open_lake(folder)
    for day in stale_days(lake):
        build_cubes(lake, day)


def usage(folder: Path) -> dict[str, float]:
    del folder
    return _ask(QUESTION["usage"])


def cube(folder: Path) -> dict[str, float]:
    del folder
    return _ask(QUESTION["cube"])


def memory_floor(folder: Path) -> dict[str, float]:
    del folder
    import numpy as np

    money, models = [], []
    names: dict[str, int] = {}
    lake = _open_lake()
    for day in lake.usage.days():
        table = lake.usage.read_day(day, ["cost_usd", "model"])
        assert table is not None
        cost = table.column("cost_usd").combine_chunks()
        words = np.frombuffer(cost.buffers()[1], np.int64).reshape(-1, 2)  # 128 bits, of which 64 are used
        money.append(np.where(cost.is_valid(), words[:, 0], 0))
        coded = table.column("model").combine_chunks().dictionary_encode()
        numbers = [names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()]
        models.append(np.array(numbers, np.int32)[coded.indices.to_numpy()])
    amounts, codes = np.concatenate(money), np.concatenate(models)
    total = 0

    def add_up() -> None:
        nonlocal total
        total = int(amounts.sum())
        codes.sum(dtype=np.int64)

    return {"value": _fastest(add_up), **_check(lake, total)}


def _make_day(lake: str, day: str) -> None:
    import usage_data

    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.lake import open_lake

    usage_data.publish_day(Path(lake), day, usage_data.make_day(day, -(-ROWS // DAYS)))
    build_cubes(open_lake(lake), day)


def _open_lake(folder: Path | None = None) -> Lake:
    from maestro_dagster.costs.lake import open_lake

    return open_lake((folder or Path(os.environ["MAESTRO_BENCH_DATA"])) / "lake")


def _ask(question: str) -> dict[str, float]:
    from maestro_dagster.costs.duck import open_views
    from maestro_dagster.costs.question import to_nano

    lake = _open_lake()
    total = 0
    with open_views(lake) as connection:

        def ask() -> None:
            nonlocal total
            total = sum(to_nano(usd) for _, _, usd in connection.execute(question).fetchall())

        return {"value": _fastest(ask), **_check(lake, total)}


def _check(lake: Lake, total: int) -> dict[str, float]:
    manifests = [lake.usage.manifest(day) for day in lake.usage.days()]
    wanted = sum(manifest.sum_nano for manifest in manifests if manifest is not None)
    if total != wanted:
        sys.exit(f"found {total} nano-USD, the lake has {wanted}")
    return {"rows": sum(manifest.rows for manifest in manifests if manifest is not None)}


def _fastest(ask: Callable[[], None]) -> float:
    ask()
    found = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ask()
        found.append(time.perf_counter() - began)
    return min(found)
