"""`make bench [NAME=...]`: each benchmark runs both sides in one run, alternating, in fresh processes.

A side is a function in `bench/<module>.py` that measures itself and returns {name: value}. A module's
`prepare(folder)`, if it has one, makes data that all its sides read: once, its folder stands in
MAESTRO_BENCH_DATA. Other MAESTRO_BENCH_ variables say how much. One line is printed per benchmark:

    BENCH {"name","unit","n","ours":{"median","p95"},"theirs":{"median","p95"},"ratio","against"}

What a side measured under `hop ...` is printed as shares of the whole, in `hops`.
`ratio` is ours / theirs of the medians; below 1 means that ours needs less. Nothing here is a test.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
DATA = "MAESTRO_BENCH_DATA"


@dataclass(frozen=True)
class Line:
    """One printed comparison: `key` is looked up in what both sides measured."""

    name: str
    unit: str
    module: str
    ours: str
    theirs: str
    against: str
    n: int = 5
    key: str | None = None


ASSET_PER_NODE = "stock Dagster, one asset per node"
MULTI_ASSET = "stock Dagster, one multi_asset"
LINES = (
    Line(
        "step_cpu_sqlite",
        "CPU ms per step",
        "step",
        "maestro",
        "asset_per_node",
        ASSET_PER_NODE,
        key="cpu_ms",
    ),
    Line(
        "step_cpu_sqlite", "CPU ms per step", "step", "maestro", "one_multi_asset", MULTI_ASSET, key="cpu_ms"
    ),
    Line("step_events", "events per step", "step", "maestro", "asset_per_node", ASSET_PER_NODE, key="events"),
    Line("step_events", "events per step", "step", "maestro", "one_multi_asset", MULTI_ASSET, key="events"),
    Line(
        "step_bytes",
        "bytes on disk per step",
        "step",
        "maestro",
        "asset_per_node",
        ASSET_PER_NODE,
        key="bytes",
    ),
    Line(
        "step_bytes", "bytes on disk per step", "step", "maestro", "one_multi_asset", MULTI_ASSET, key="bytes"
    ),
    Line("definitions_10k", "CPU s", "definition", "maestro", "asset_per_node", ASSET_PER_NODE, n=3),
    Line(
        "push_to_first_step",
        "s",
        "push",
        "maestro",
        "stock_sensor",
        "stock sensor, daemon and launcher on the same repository",
    ),
    Line(
        "delivery_to_first_step",
        "s",
        "push",
        "webhook",
        "stock_sensor",
        "a push that the stock sensor, daemon and launcher find by polling",
    ),
    Line("evidence_1k", "ms", "evidence", "maestro", "zip_and_fsync", "fsync + zip of the same bytes", n=15),
    Line(
        "cost_model_day_50m",
        "s",
        "cost_model_day",
        "usage",
        "memory_floor",
        "numpy adding up the same rows' money (int64) and model numbers (int32) in memory, one thread",
        n=7,
    ),
    Line("cube_query", "s", "cost_model_day", "cube", "usage", "the same question on the raw usage", n=7),
    Line(
        "usage_append",
        "ms per event, 8 writers",
        "usage_append",
        "spool",
        "parquet",
        "Parquet micro-files with fsync",
        key="single",
    ),
    Line(
        "usage_append_100",
        "ms per event, 8 writers, batches of 100",
        "usage_append",
        "spool",
        "parquet",
        "Parquet micro-files with fsync",
        key="batch",
    ),
    Line(
        "usage_append",
        "ms per event, 8 writers",
        "usage_append",
        "spool",
        "duckdb",
        "DuckDB open, insert, close",
        key="single",
    ),
    Line(
        "artifact_cost_100m",
        "s",
        "artifact_cost",
        "maestro",
        "recursive_sql",
        "a recursive query over raw usage and lineage in DuckDB, given up after 120 s",
        n=3,
    ),
    Line("day_rebuild", "s", "day_rebuild", "one_day", "all_days", "rebuilding all 30 days", n=3),
    Line(
        "forget_person_10m",
        "ms",
        "forget",
        "destroy",
        "rewrite",
        "rewriting the Parquet files that have rows of the person",
        n=3,
    ),
    Line("lint_10k", "CPU s", "lint", "maestro", "yaml_compose", "ruamel.yaml compose of the same file", n=3),
)


def measure(module: str, side: str, data: str = "") -> dict[str, float]:
    """One measurement in a fresh process with an empty home."""
    # A worker may still be closing its run when the loop is stopped.
    with tempfile.TemporaryDirectory(prefix="maestro-bench-", ignore_cleanup_errors=True) as folder:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("MAESTRO_", "DAGSTER_")) or name.startswith("MAESTRO_BENCH_")
            },
            "HOME": folder,
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            **({DATA: data} if data else {}),
        }
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), "--side", module, side, folder],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"bench {module}.{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def prepare(module: str) -> Iterator[str]:
    """The folder with the data of a module, "" for one that needs none; removed at the end."""
    if not hasattr(load(module), "prepare"):
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="maestro-bench-data-", ignore_cleanup_errors=True) as folder:
        print(f"  {module}: preparing", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, str(Path(__file__)), "--prepare", module, folder], check=True)
        yield folder


def load(module: str) -> ModuleType:
    # By its plain name, this folder being the first of the path: a process that it starts finds it again.
    return importlib.import_module(module)


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)  # nearest rank
    return {"median": round(statistics.median(ordered), 4), "p95": round(ordered[rank], 4)}


def shares(line: Line, found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of what was measured in hops, the part of the whole that each took: medians of the rounds."""
    told = {
        side: {
            key.removeprefix("hop "): round(
                statistics.median(one[key] / one["value"] for one in found[name]), 3
            )
            for key in found[name][0]
            if key.startswith("hop ")
        }
        for side, name in (("ours", line.ours), ("theirs", line.theirs))
    }
    return {"hops": told} if any(told.values()) else {}


def run(names: list[str]) -> None:
    chosen = [line for line in LINES if not names or line.name in names]
    if not chosen:
        sys.exit(
            f"no benchmark called {', '.join(names)}; there are {', '.join(sorted({x.name for x in LINES}))}"
        )
    for module in dict.fromkeys(line.module for line in chosen):
        lines = [line for line in chosen if line.module == module]
        sides = list(dict.fromkeys(side for line in lines for side in (line.ours, line.theirs)))
        rounds = max(line.n for line in lines)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        with prepare(module) as data:
            for number in range(rounds):
                for side in sides:  # alternating, so that a busy minute hits both
                    print(f"  {module}: {side}, {number + 1} of {rounds}", file=sys.stderr, flush=True)
                    found[side].append(measure(module, side, data))
        for line in lines:
            ours = summary([one[line.key or "value"] for one in found[line.ours]])
            theirs = summary([one[line.key or "value"] for one in found[line.theirs]])
            print(
                "BENCH "
                + json.dumps(
                    {
                        "name": line.name,
                        "unit": line.unit,
                        "n": rounds,
                        "ours": ours,
                        "theirs": theirs,
                        "ratio": round(ours["median"] / theirs["median"], 4),
                        "against": line.against,
                        **shares(line, found),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _, _, wanted, side, folder = sys.argv
        print(json.dumps(getattr(load(wanted), side)(Path(folder))))
    elif sys.argv[1:2] == ["--prepare"]:
        load(sys.argv[2]).prepare(Path(sys.argv[3]))
    else:
        run([name for name in sys.argv[1:] if name])
