"""Usage as an installation under fire makes it: many writers and a compactor, all killed at random moments.

The bulk of the events is made by `bench/usage_data.py` and written as lines in blocks; whoever writes them
takes up after the last block that was acknowledged. The rest comes from writers that call
`SpoolWriter.append` and are never started again. Every event is a function of the seed, so what was
attempted can be said again at any time; only what was acknowledged is remembered.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import polars as pl

    from maestro_dagster.costs.interface import UsageEvent

REPOSITORY = Path(__file__).resolve().parents[2]
LIVE = 15_000  # events that a live writer tries at most


@dataclass(frozen=True)
class Plan:
    """`rows` a day in bulk. Every `late_every`-th day gets a part of them two days later."""

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

    def is_late(self, day: str) -> bool:
        return self.days.index(day) % self.late_every == 0

    def random(self, *names: object) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, *names))))


def open_yard(plan: Plan) -> None:
    """A project whose operator knows the tenants, and the process that all others are forked from."""
    from multiprocessing import forkserver

    from usage_data import TENANTS

    multiprocessing.set_forkserver_preload(["costs_warm"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()

    (plan.root / "resources").mkdir(parents=True)
    (plan.root / "ended").mkdir()
    (plan.root / "said").mkdir()
    (plan.root / "pyproject.toml").write_text("[tool.maestro]\n", encoding="utf-8")
    tenants = ", ".join(["live", *(f"tenant-{number:02d}" for number in range(TENANTS))])
    path = plan.root / "resources" / "expectations.yaml"
    path.write_text(f"tenants: [{tenants}]\n", encoding="utf-8")


# What is written


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
    while made < LIVE:
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


# Who writes it: each function is a process of its own


def write_bulk(plan: Plan, day: str, late: bool, target: Path, begin: int) -> None:
    from maestro_dagster.costs.spool import SpoolWriter

    lines = make_lines(plan, day, late=late)
    plan.spool.mkdir(parents=True, exist_ok=True)
    with SpoolWriter(target) as writer, said(plan, bulk_name(day, late=late)) as say:
        for number in range(begin, -(-lines.height // plan.block)):
            # As `append` does once its events are text: one write, one fdatasync, or nothing.
            data = encode_lines(lines.slice(number * plan.block, plan.block))
            writer._write(b"\n" + data if writer._torn else data, durable=True)
            say(number)


def write_live(plan: Plan, run_id: str, days: tuple[str, ...]) -> None:
    from maestro_dagster.costs.spool import Spool

    with Spool(plan.spool).open_run(run_id) as writer, said(plan, run_id) as say:
        for number, batch in enumerate(plan_live(plan, run_id, days)):
            writer.append(batch)
            say(number)


def compact(plan: Plan, days: tuple[str, ...]) -> None:
    """As `maestro cost compact` does; that a run has ended is said by a file here."""
    from maestro_dagster.costs.compact import compact_day
    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.usage_check import open_usage_check

    project = find_project(plan.root, {})
    lake = open_lake(project.lake)
    check = open_usage_check(lake, project)
    for day in days:
        report = compact_day(
            Spool(project.spool), lake, day, lambda run: (plan.root / "ended" / run).exists(), check
        )
        wrong = [outcome.message for outcome in report.outcomes if outcome.blocks]
        if not report.balanced or wrong:
            raise AssertionError(f"{day}: {wrong or report}")
        if report.rows and not build_cubes(lake, day).balanced:
            raise AssertionError(f"cubes of {day}")


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


# Who kills them


@dataclass
class Yard:
    """Starts, kills and starts again. `live` says of each live writer which days it wrote of."""

    plan: Plan
    rng: random.Random
    live: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=lambda: {"bulk": 0, "live": 0, "compact": 0})
    torn: int = 0
    seconds: float = 1.0  # that a compaction took

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=target, args=arguments)
        process.start()
        return process

    def fill_day(self, day: str) -> None:
        """One day of the installation's life; at its end the day is in the lake."""
        plan, index = self.plan, self.plan.days.index(day)
        jobs = [(day, False)]
        if index >= 2 and plan.is_late(plan.days[index - 2]):
            jobs.append((plan.days[index - 2], True))
        touched = tuple(name for name, _ in reversed(jobs))
        writers = []
        for number in range(2):
            run_id = f"live-{day}-{number}"
            self.live[run_id] = touched
            writers.append(self.start(write_live, plan, run_id, touched))
        disturber = self.start(compact, plan, touched) if self.rng.random() < 0.4 else None
        if self._wait_said(writers[0], f"live-{day}-0", 0):  # one dies soon, the other one late
            time.sleep(self.rng.uniform(0, 0.3))
            self._kill(writers.pop(0), "live")
        for name, late in jobs:
            self._write_bulk(name, late=late)
        for process in writers:
            self._kill(process, "live")
        if disturber is not None:
            self._kill(disturber, "compact")
        for run_id in (name for name in self.live if name.startswith(f"live-{day}")):
            self._tear(max(plan.spool.glob(f"{run_id}.*"), default=None))
            (plan.root / "ended" / run_id).touch()
        self.settle(touched)

    def settle(self, days: tuple[str, ...]) -> None:
        """Compacts the days; now and then the compactor dies on the way."""
        for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
            process = self.start(compact, self.plan, days)
            time.sleep(self.rng.uniform(0, self.seconds * 1.1))
            self._kill(process, "compact")
        begun = time.monotonic()
        process = self.start(compact, self.plan, days)
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"compaction of {days} ended with {process.exitcode}")
        self.seconds = time.monotonic() - begun

    def _write_bulk(self, day: str, *, late: bool) -> None:
        plan, name = self.plan, bulk_name(day, late=late)
        target: Path | None = None
        tries = 0
        while True:
            begin = last_said(plan, name) + 1
            if target is None or self.rng.random() < 0.5:  # the same file, torn, or a new one
                target = plan.spool / f"{name}.{os.getpid()}-{time.time_ns()}.ndjson"
            process = self.start(write_bulk, plan, day, late, target, begin)
            if tries < 2 and self.rng.random() < 0.5:
                tries += 1
                self._wait_said(process, name, begin)
                time.sleep(self.rng.choice([0, 0.01, 0.1, 0.3]) * self.rng.random())
                self._kill(process, "bulk")
                self._tear(target)
                continue
            process.join()
            if process.exitcode != 0:
                raise AssertionError(f"the writer of {name} ended with {process.exitcode}")
            break
        (plan.root / "ended" / name).touch()

    def _wait_said(self, process: BaseProcess, name: str, number: int) -> bool:
        """Until it has acknowledged the batch, or has ended."""
        while last_said(self.plan, name) < number:
            if not process.is_alive():
                return False
            time.sleep(0.005)
        return True

    def _kill(self, process: BaseProcess, what: str) -> None:
        process.kill()
        process.join()
        if process.exitcode == -9:
            self.kills[what] += 1
        elif process.exitcode != 0:
            raise AssertionError(f"{what} ended with {process.exitcode} by itself")

    def _tear(self, path: Path | None) -> None:
        """A process that dies in the middle of a write leaves such a tail; a signal alone seldom does."""
        if path is None or not path.exists():
            return
        digest = hashlib.sha256(path.name.encode()).hexdigest()[:32]
        line = (
            f'{{"event_id":"{digest}","phase":"settled","tenant":"live","run_id":"torn","flow":"f","step":"s",'
            f'"kind":"llm","cost_nano":1000000007,"occurred_at":"{self.plan.days[0]}T00:00:00.000000Z"}}'
        )
        with path.open("ab") as file:
            file.write(line[: self.rng.randrange(1, len(line) - 1)].encode())
        self.torn += 1


if str(REPOSITORY / "bench") not in sys.path:
    sys.path.insert(0, str(REPOSITORY / "bench"))
