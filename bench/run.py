"""`make bench [NAME=...]`: each benchmark runs both sides in one run, alternating, in fresh processes.

A side is a function in `bench/<module>.py` that measures itself and returns {name: value}. One line is
printed per benchmark:

    BENCH {"name","unit","n","ours":{"median","p95"},"theirs":{"median","p95"},"ratio","against"}

`ratio` is ours / theirs of the medians; below 1 means that ours needs less. Nothing here is a test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent


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
    Line("evidence_1k", "ms", "evidence", "maestro", "zip_and_fsync", "fsync + zip of the same bytes", n=15),
    Line("lint_10k", "CPU s", "lint", "maestro", "yaml_compose", "ruamel.yaml compose of the same file", n=3),
)


def measure(module: str, side: str) -> dict[str, float]:
    """One measurement in a fresh process with an empty home."""
    # A worker may still be closing its run when the loop is stopped.
    with tempfile.TemporaryDirectory(prefix="maestro-bench-", ignore_cleanup_errors=True) as folder:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("MAESTRO_", "DAGSTER_"))
            },
            "HOME": folder,
            "DAGSTER_DISABLE_TELEMETRY": "yes",
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


def load(module: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{module}", FOLDER / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)  # nearest rank
    return {"median": round(statistics.median(ordered), 4), "p95": round(ordered[rank], 4)}


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
        for number in range(rounds):
            for side in sides:  # alternating, so that a busy minute hits both
                print(f"  {module}: {side}, {number + 1} of {rounds}", file=sys.stderr, flush=True)
                found[side].append(measure(module, side))
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
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _, _, wanted, side, folder = sys.argv
        print(json.dumps(getattr(load(wanted), side)(Path(folder))))
    else:
        run([name for name in sys.argv[1:] if name])
