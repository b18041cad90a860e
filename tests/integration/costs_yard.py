"""Processes that write usage and compact it, and whoever kills them, again and again, at random moments.

Who is to die is told so when it starts, by a count of its own steps and a delay after that: it dies on the
busiest machine too, and in the same step for the same seed. A writer of the bulk is started again after the
last block that was acknowledged; a live run is not, as when its machine is gone.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from costs_plan import Plan, bulk_name, encode_lines, keep_lines, last_said, plan_live, said


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
    (plan.root / "lines").mkdir()
    (plan.root / "pyproject.toml").write_text("[tool.maestro]\n", encoding="utf-8")
    tenants = ", ".join(["live", *(f"tenant-{number:02d}" for number in range(TENANTS))])
    path = plan.root / "resources" / "expectations.yaml"
    path.write_text(f"tenants: [{tenants}]\n", encoding="utf-8")


# Who writes it: each function is a process of its own


@dataclass(frozen=True)
class Death:
    """Kill -9 at the `step`-th acknowledgement or, of a compactor, change on disk, `delay` seconds on."""

    step: int
    delay: float = 0.0

    def come(self, count: int) -> None:
        if count == self.step:
            if self.delay:
                threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, folder: Path) -> None:
        """Comes before this process writes, renames or removes a file there for the `step`-th time."""
        count = 0

        def see(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            changes = event in ("os.rename", "os.remove") or (event == "open" and arguments[1] == "wb")
            if changes and str(arguments[0]).startswith(str(folder)):
                count += 1
                self.come(count)

        sys.addaudithook(see)


def wait_for_death() -> None:
    """Who was told to die, or will be killed, does not end before."""
    time.sleep(3600)
    raise AssertionError("nobody came")


def write_bulk(
    plan: Plan, day: str, late: bool, target: Path, begin: int, death: Death | None = None
) -> None:
    from maestro_dagster.costs.spool import SpoolWriter

    lines = keep_lines(plan, day, late=late)
    plan.spool.mkdir(parents=True, exist_ok=True)
    with SpoolWriter(target) as writer, said(plan, bulk_name(day, late=late)) as say:
        blocks = range(begin, -(-lines.height // plan.block))
        for count, number in enumerate(blocks, start=1):
            # As `append` does once its events are text: one write, one fdatasync, or nothing.
            data = encode_lines(lines.slice(number * plan.block, plan.block))
            writer._write(b"\n" + data if writer._torn else data, durable=True)
            say(number)
            if death is not None:
                death.come(count)
        if death is not None:
            if len(blocks) < death.step:
                Death(0).come(0)
            wait_for_death()


def write_live(plan: Plan, run_id: str, days: tuple[str, ...], death: Death | None) -> None:
    """Never ends by itself: a run that is still going when its machine goes."""
    from maestro_dagster.costs.spool import Spool

    with Spool(plan.spool).open_run(run_id) as writer, said(plan, run_id) as say:
        for number, batch in enumerate(plan_live(plan, run_id, days)):
            writer.append(batch)
            say(number)
            if death is not None:
                death.come(number + 1)
        wait_for_death()


def compact(plan: Plan, days: tuple[str, ...], death: Death | None = None) -> None:
    """As `maestro cost compact` does; that a run has ended is said by a file here."""
    from maestro_dagster.costs.compact import compact_day
    from maestro_dagster.costs.cube import build_cubes
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.usage_check import open_usage_check

    project = find_project(plan.root, {})
    if death is not None:
        death.watch(plan.root / ".maestro")
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


# Who kills them


@dataclass
class Yard:
    """Starts, kills and starts again. `live` says of each live writer which days it wrote of."""

    plan: Plan
    rng: random.Random
    live: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=lambda: {"bulk": 0, "live": 0, "compact": 0})
    torn: int = 0
    reopened: int = 0  # torn files that a writer went on with

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def fill_day(self, day: str) -> None:
        """One day of the installation's life; at its end the day is in the lake.

        On the first day everything happens at least once, later it may.
        """
        plan, index = self.plan, self.plan.days.index(day)
        jobs = [(day, False)]
        if index >= 2 and plan.is_late(plan.days[index - 2]):
            jobs.append((plan.days[index - 2], True))
        touched = tuple(name for name, _ in reversed(jobs))
        early, lasting = f"live-{day}-0", f"live-{day}-1"
        self.live |= {early: touched, lasting: touched}
        dying = self.start(write_live, plan, early, touched, self._choose_death(1, 4))
        writer = self.start(write_live, plan, lasting, touched, None)
        disturber = self.start(compact, plan, touched) if not index or self.rng.random() < 0.4 else None
        for name, late in jobs:
            self._write_bulk(name, late=late, kills=self.rng.choice([1, 2]))
        self._see_dead(dying, "live")
        while last_said(plan, lasting) < 0 and writer.is_alive():
            time.sleep(0.01)
        self._kill(writer, "live")
        if disturber is not None:
            self._kill(disturber, "compact", may_end=True)
        for run_id in (early, lasting):
            self._tear(max(plan.spool.glob(f"{run_id}.*")))
            (plan.root / "ended" / run_id).touch()
        self.settle(touched, kills=max(self.rng.choice([0, 0, 1, 2]), not index))

    def settle(self, days: tuple[str, ...], kills: int) -> None:
        """Compacts the days; the compactor dies on the way so many times, unless it is done before."""
        for _ in range(kills):
            # To publish a day takes some 20 changes; the first has three files to remove, if nothing else.
            step = self.rng.randint(1, 24 if self.kills["compact"] else 3)
            process = self.start(compact, self.plan, days, Death(step))
            self._see_dead(process, "compact", may_end=True)
        process = self.start(compact, self.plan, days)
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"compaction of {days} ended with {process.exitcode}")

    def _write_bulk(self, day: str, *, late: bool, kills: int) -> None:
        plan, name = self.plan, bulk_name(day, late=late)
        target: Path | None = None
        for left in range(kills, -1, -1):
            if target is not None and (not self.reopened or self.rng.random() < 0.5):
                self.reopened += 1
            else:
                target = plan.spool / f"{name}.{os.getpid()}-{time.time_ns()}.ndjson"
            death = self._choose_death(1, 8) if left else None
            process = self.start(write_bulk, plan, day, late, target, last_said(plan, name) + 1, death)
            if death is not None:
                self._see_dead(process, "bulk")
                self._tear(target)
                continue
            process.join()
            if process.exitcode != 0:
                raise AssertionError(f"the writer of {name} ended with {process.exitcode}")
        (plan.root / "ended" / name).touch()
        (plan.root / "lines" / f"{name}.arrow").unlink()

    def _choose_death(self, first: int, last: int) -> Death:
        return Death(
            self.rng.randint(first, last), self.rng.choice([0, 0.001, 0.01, 0.1]) * self.rng.random()
        )

    def _kill(self, process: BaseProcess, what: str, *, may_end: bool = False) -> None:
        process.kill()
        self._see_dead(process, what, may_end=may_end)

    def _see_dead(self, process: BaseProcess, what: str, *, may_end: bool = False) -> bool:
        """Whether it was killed; `may_end`: it may have been done before."""
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills[what] += 1
        elif process.exitcode != 0 or not may_end:
            raise AssertionError(f"{what} ended with {process.exitcode} by itself")
        return process.exitcode == -signal.SIGKILL

    def _tear(self, path: Path) -> None:
        """A process that dies in the middle of a write leaves such a tail; a signal alone seldom does."""
        digest = hashlib.sha256(path.name.encode()).hexdigest()[:32]
        line = (
            f'{{"event_id":"{digest}","phase":"settled","tenant":"live","run_id":"torn","flow":"f","step":"s",'
            f'"kind":"llm","cost_nano":1000000007,"occurred_at":"{self.plan.days[0]}T00:00:00.000000Z"}}'
        )
        with path.open("ab") as file:
            file.write(line[: self.rng.randrange(1, len(line) - 1)].encode())
        self.torn += 1
