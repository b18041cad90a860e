"""Usage as a busy installation makes it, generated: the same seed gives the same rows, byte for byte.

40 tenants of very unequal size, 60 flows of 8 steps in 6 projects, 25 models of 6 providers, runs of about
20 events (8 model calls, 8 compute, 2 memory, 1 network, 1 storage), 1 % of the model calls without a price,
2 % failed, 3 % second or third attempts. Costs are whole nano-USD: tokens x price per token, as in a lake.

    python bench/usage_data.py FOLDER DAYS ROWS_PER_DAY [SEED]     a lake of that many days up to 2026-03-31
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LAST_DAY = date(2026, 3, 31)
TENANTS, PROJECTS, FLOWS, STEPS, MODELS, SUBJECTS = 40, 6, 60, 8, 25, 500
PROVIDERS = ("anthropic", "cohere", "google", "mistral", "ollama", "openai")
ENVS = ("dev", "prod", "staging")
TIERS = ("long-1825d", "short-30d", "standard-365d")
KINDS = ("llm", "compute", "memory", "network", "storage")
OUTCOMES = ("ok", "failed", "cancelled")
PER_RUN = 20
_MIX = (0,) * 8 + (1,) * 8 + (2, 2, 3, 4)  # kinds of a run's events
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class _Frame:
    """Columns as numbers, in the order of the lake."""

    random: np.random.Generator
    rows: int
    tenant: np.ndarray
    run: np.ndarray
    slot: np.ndarray  # which of the events of its run
    flow: np.ndarray
    kind: np.ndarray
    moment: np.ndarray  # microseconds since midnight


def make_day(day: str, rows: int, seed: int = 1) -> pa.Table:
    """A day (YYYY-MM-DD) in the lake's schema and order (tenant, time)."""
    import numpy as np

    frame = _draw(np.random.default_rng([seed, date.fromisoformat(day).toordinal()]), rows)
    return _table(day, frame)


def day_range(days: int, last: date = LAST_DAY) -> tuple[str, ...]:
    """That many days up to and including `last`, ascending."""
    return tuple((last - timedelta(days=days - 1 - number)).isoformat() for number in range(days))


def write_lake(folder: Path, days: Sequence[str], rows_per_day: int, seed: int = 1) -> int:
    """Publishes the days as `usage_daily` of a lake in the folder; gives the rows written."""
    for day in days:
        publish_day(folder, day, make_day(day, rows_per_day, seed))
    return rows_per_day * len(days)


def publish_day(folder: Path, day: str, table: pa.Table) -> None:
    """As the compactor does, in the layout that the lake has today."""
    from maestro_dagster.costs.lake import open_lake

    lake = open_lake(folder)
    with lake.usage.lock_day(day):
        lake.usage.write_day(day, table)


def _draw(random: np.random.Generator, rows: int) -> _Frame:
    import numpy as np

    runs = max(1, -(-rows // PER_RUN))
    weight = 1 / np.arange(1, TENANTS + 1)
    run_tenant = random.choice(TENANTS, runs, p=weight / weight.sum()).astype(np.int32)
    run_flow = ((run_tenant * 7 + random.integers(0, 12, runs)) % FLOWS).astype(np.int32)  # 12 flows a tenant
    run_start = random.integers(0, _DAY_US - 600_000_000, runs)
    run = np.repeat(np.arange(runs, dtype=np.int32), PER_RUN)[:rows]
    slot = np.tile(np.arange(PER_RUN, dtype=np.int32), runs)[:rows]
    moment = run_start[run] + slot * 25_000_000 + random.integers(0, 25_000_000, rows)
    order = np.lexsort((moment, run_tenant[run]))
    run, slot = run[order], slot[order]
    kind = np.array(_MIX, np.int32)[slot]
    return _Frame(random, rows, run_tenant[run], run, slot, run_flow[run], kind, moment[order])


def _table(day: str, frame: _Frame) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from maestro_dagster.costs.schema import COLUMNS, usage_schema

    random, rows, llm = frame.random, frame.rows, frame.kind == 0
    model = np.minimum((random.random(rows) ** 2 * MODELS).astype(np.int32), MODELS - 1)
    failed = random.random(rows) < 0.02
    again = (random.random(rows) < 0.03) * random.integers(1, 3, rows)
    models = [*(f"model-{number:02d}" for number in range(MODELS)), ""]
    midnight = np.datetime64(day, "us").astype(np.int64)
    counts = _counts(frame)
    columns: dict[str, pa.Array] = {name: pa.array(value) for name, value in counts.items()}
    columns |= _money(frame, model, counts)
    columns |= {
        "event_id": _hex_ids(random, rows),
        "tenant": _names([f"tenant-{number:02d}" for number in range(TENANTS)], frame.tenant),
        "run_id": _names(_run_ids(day, random, int(frame.run.max(initial=0)) + 1), frame.run),
        "flow": _names([f"flow-{number:02d}" for number in range(FLOWS)], frame.flow),
        "step": _names(
            [f"step-{flow:02d}-{step}" for flow in range(FLOWS) for step in range(STEPS)],
            frame.flow * STEPS + frame.slot % STEPS,
        ),
        "iteration": pa.array(np.full(rows, -1, np.int32)),
        "attempt": pa.array((1 + again).astype(np.int32)),
        "kind": _names(KINDS, frame.kind),
        "provider": _names((*PROVIDERS, "maestro"), np.where(llm, model % len(PROVIDERS), len(PROVIDERS))),
        "model": _names(models, np.where(llm, model, MODELS)),
        "env": _names(ENVS, frame.run % 7 % 3),
        "price": _names(("catalogue@2026-01-01", "rates@2026-01-01"), (~llm).astype(np.int32)),
        "phase": _names(("settled",), np.zeros(rows, np.int32)),
        "outcome": _names(OUTCOMES, failed.astype(np.int32) * (1 + (frame.run % 10 == 0))),
        "estimated": pa.array(llm & (random.random(rows) < 0.05)),
        "occurred_at": pa.array(midnight + frame.moment).cast(pa.timestamp("us", tz="UTC")),
        "project": _names([f"project-{number}" for number in range(PROJECTS)], frame.flow % PROJECTS),
        "retention_tier": _names(TIERS, frame.flow % 3),
        "subject": _names([f"{number:032x}" for number in range(SUBJECTS)], frame.run % SUBJECTS),
    }  # fmt: skip
    return pa.Table.from_arrays([columns[name] for name in COLUMNS], schema=usage_schema())


def _counts(frame: _Frame) -> dict[str, np.ndarray]:
    import numpy as np

    random, rows, kind = frame.random, frame.rows, frame.kind
    size = random.lognormal(6.5, 1.1, rows).astype(np.int64) + 1  # of a prompt, of a piece of work

    def when(wanted: int, value: np.ndarray) -> np.ndarray:
        return np.where(kind == wanted, value, 0).astype(np.int64)

    network = random.random(rows) < 0.5
    return {
        "tokens_in": when(0, size),
        "tokens_out": when(0, size // 3 + 1),
        "tokens_cached": when(0, np.where(network, size // 4, 0)),
        "tokens_cache_write": when(0, np.where(size % 5 == 0, size // 8, 0)),
        "tokens_reasoning": when(0, np.where(size % 3 == 0, size // 9, 0)),
        "cpu_ms": when(1, size),
        "memory_kb_ms": when(2, size * 60_000),
        "bytes_in": when(3, np.where(network, size * 900, 0)),
        "bytes_out": when(3, np.where(network, 0, size * 900)) + when(4, size * 4000),
        "wall_ms": np.where(kind <= 1, size * 2, 0).astype(np.int64),
    }


def _money(frame: _Frame, model: np.ndarray, counts: dict[str, np.ndarray]) -> dict[str, pa.Array]:
    import numpy as np

    llm = frame.kind == 0
    price_in = np.array([40 * (number + 1) for number in range(MODELS)], np.int64)[model]  # nano-USD a token
    plain = counts["tokens_in"] - counts["tokens_cached"] - counts["tokens_cache_write"]
    parts = {
        "usd_in": plain * price_in,
        "usd_out": counts["tokens_out"] * price_in * 4,
        "usd_cached": counts["tokens_cached"] * (price_in // 10),
        "usd_cache_write": counts["tokens_cache_write"] * (price_in * 5 // 4),
    }
    work = (
        counts["cpu_ms"] * 13
        + counts["memory_kb_ms"] // 20_000
        + (counts["bytes_in"] + counts["bytes_out"]) * 9 // 100
    )
    known = ~llm | (frame.random.random(frame.rows) >= 0.01)
    total = np.where(llm, sum(parts.values()), work)
    return {"cost_usd": _usd(total, known)} | {
        name: _usd(value, llm & known & ((value > 0) | (name in {"usd_in", "usd_out"})))
        for name, value in parts.items()
    }


def _usd(nano: np.ndarray, known: np.ndarray) -> pa.Array:
    """DECIMAL(18,9) of whole nano-USD: the same integer in 128 bits, so nothing is rounded."""
    import numpy as np
    import pyarrow as pa

    wide = np.zeros((len(nano), 2), np.int64)
    wide[:, 0] = np.where(known, nano, 0)
    valid = pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.decimal128(18, 9), len(nano), [valid, pa.py_buffer(wide)])


def _names(values: Sequence[str], index: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string()).take(pa.array(index))


def _hex_ids(random: np.random.Generator, rows: int) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    raw = random.integers(0, 256, (rows, 16), dtype=np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.empty((rows, 32), np.uint8)
    text[:, 0::2], text[:, 1::2] = digits[raw >> 4], digits[raw & 15]
    offsets = np.arange(rows + 1, dtype=np.int32) * 32
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _run_ids(day: str, random: np.random.Generator, runs: int) -> list[str]:
    tail = random.integers(0, 16**8, runs)
    return [f"{day.replace('-', '')}-{number:06d}-{value:08x}" for number, value in enumerate(tail.tolist())]


if __name__ == "__main__":
    _, target, count, size, *seed = sys.argv
    written = write_lake(Path(target), day_range(int(count)), int(size), int(seed[0]) if seed else 1)
    print(f"{written} rows in {target}")
