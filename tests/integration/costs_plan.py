"""What is written to the usage of an installation under fire, and what was acknowledged of it.

The bulk is made by `bench/usage_data.py` and written as lines in blocks; the rest are batches of live runs.
Every event is a function of the seed, so what was attempted can be said again at any time; only what was
acknowledged is remembered.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from maestro_dagster.costs.interface import UsageEvent

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))


@dataclass(frozen=True)
class Plan:
    """`rows` a day in bulk. Every `late_every`-th day gets a part of them two days later, if there is one."""

    root: Path
    seed: int
    days: tuple[str, ...]
    rows: int
    late_every: int

    @property
    def spool(self) -> Path:
        return self.root / ".maestro" / "spool"

    @property
    def block(self) -> int:
        """Lines that are acknowledged together."""
        return max(200, self.rows // 40)

    @property
    def live(self) -> int:
        """Events that a live writer tries at most."""
        return min(15_000, max(1_000, self.rows // 10))

    def is_late(self, day: str) -> bool:
        index = self.days.index(day)
        return index % self.late_every == 0 and index + 2 < len(self.days)

    def random(self, *names: object) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, *names))))


def make_bulk(plan: Plan, day: str) -> pl.DataFrame:
    """The day's events as they must end up, each once; money is whole nano-USD."""
    from usage_data import make_day

    from maestro_dagster.costs.frame import frame_of

    return frame_of(make_day(day, plan.rows, plan.seed))


def make_lines(plan: Plan, day: str, *, late: bool) -> pl.DataFrame:
    """What is written of the day at first, or late: shuffled, some of it twice.

    Late events are new, or settle a call whose reserve (another amount) came at first; and of those that
    came at first some come again.
    """
    import numpy as np
    import polars as pl

    from maestro_dagster.costs.schema import MONEY

    whole = make_bulk(plan, day)
    draw = np.random.default_rng([plan.seed, date.fromisoformat(day).toordinal()]).random(whole.height)
    held = pl.Series(draw < 0.03) & plan.is_late(day)
    opened = whole.filter(held & (pl.col("kind") == "llm") & pl.Series(draw < 0.02))
    first = whole.filter(~held)
    again = first.sample(fraction=0.01, seed=plan.seed + late)
    if late:
        lines = pl.concat([whole.filter(held), again])
    else:
        reserve = opened.with_columns(
            pl.lit("intent").alias("phase"), pl.col("cost_nano").fill_null(7) * 2 + 1,
            *(pl.lit(None, pl.Int64).alias(name) for name in MONEY.values() if name != "cost_nano"),
            pl.lit("reserve").alias("price"),
        )  # fmt: skip
        lines = pl.concat([first, reserve, again])
    return lines.sample(fraction=1, shuffle=True, seed=plan.seed + 2)


def keep_lines(plan: Plan, day: str, *, late: bool) -> pl.DataFrame:
    """As `make_lines`; whoever is started after a writer was killed maps what the first one made."""
    import polars as pl

    path = plan.root / "lines" / f"{bulk_name(day, late=late)}.arrow"
    if not path.exists():
        unsaid = path.with_suffix(f".{os.getpid()}")
        make_lines(plan, day, late=late).write_ipc(unsaid)
        unsaid.rename(path)
    return pl.read_ipc(path)


def encode_lines(frame: pl.DataFrame) -> bytes:
    """Lines of a spool: kind by kind, without the fields that have their usual value."""
    import polars as pl

    from maestro_dagster.costs.line import REQUIRED, USUAL

    always = {*REQUIRED, "cost_nano"}
    moment = pl.col("occurred_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    parts = []
    for part in frame.with_columns(moment).partition_by("kind"):
        usual = {
            name
            for name in part.columns
            if name not in always
            and (
                part[name].null_count() == part.height
                if USUAL[name] is None
                else (part[name] == USUAL[name]).all()
            )
        }
        parts.append(part.drop(usual).write_ndjson().encode())
    return b"".join(parts)


def plan_live(plan: Plan, run_id: str, days: tuple[str, ...]) -> Iterator[list[UsageEvent]]:
    """The batches of a live writer, in order: new events, and of the batch before a few again."""
    from maestro_dagster.costs.event import UsageScope

    rng = plan.random(run_id)
    scope = UsageScope("live", run_id, "flow-00", "step", 1, project="live")
    before: list[UsageEvent] = []
    made = 0
    while made < plan.live:
        batch = []
        for _ in range(rng.choice([1, 5, 100, 400])):
            made += 1
            day = days[-1] if rng.random() < 0.9 else rng.choice(days)
            cost = None if rng.random() < 0.01 else rng.randrange(10**9)
            batch.append(
                scope.make_event(
                    "llm", event_id=f"{run_id}-{made}", provider="live", model=f"live-{rng.randrange(5)}",
                    phase="intent" if rng.random() < 0.05 else "settled", tokens_in=1 + made % 977,
                    cost_nano=cost, price="list@2026-01-01" if cost is not None else "",
                    occurred_at=f"{day}T{rng.randrange(24):02d}:00:00.{made:06d}Z",
                )
            )  # fmt: skip
        yield batch + rng.sample(before, min(len(before), 3))
        before = batch


class said:  # noqa: N801 - reads as what it does
    """What a process has said outlives it: each number is one write, and nobody is asked to wait."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._path = plan.root / "said" / name

    def __enter__(self) -> Callable[[int], None]:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return lambda number: [os.write(self._file, b"%d\n" % number), None][1]

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def last_said(plan: Plan, name: str) -> int:
    """-1: nothing."""
    try:
        return int((plan.root / "said" / name).read_bytes().split(b"\n")[-2])
    except (FileNotFoundError, IndexError):
        return -1


def bulk_name(day: str, *, late: bool) -> str:
    return f"{'late' if late else 'bulk'}-{day}"
