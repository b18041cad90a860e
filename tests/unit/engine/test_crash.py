"""SIGKILL at any moment: what the journal acknowledged is never run again, and the run ends done."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.engine import writing
from maestro_dagster.engine.engine import Engine
from maestro_dagster.errors import JournalError
from maestro_dagster.evidence.verify import verify_bundle

WORKER = Path(__file__).with_name("worker.py")
KILLS = 50 if os.environ.get("MAESTRO_SOAK") == "1" else 5


def start(home: Path, run_id: str = "r1") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(home), run_id],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def make_release(support: ModuleType, witness: Path) -> Any:
    """A flow of the shape of a release: a chain, a fan, a branch, a loop, a join."""
    note = {"witness": str(witness), "seconds": 0.01}
    item = {**note, "text": "${{ item }}"}
    return support.make_flow(
        {"id": "checkout", "with": note},
        {"id": "plan", "needs": ["checkout"], "with": note},
        *({"id": f"part{number}", "needs": ["plan"], "with": note} for number in range(6)),
        {"id": "call", "uses": support.CALL, "needs": ["plan"]},
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "needs": ["plan"],
            "with": {"items": list(range(8)), "uses": support.MAKE, "with": item, "concurrency": 3},
        },
        {
            "id": "way",
            "uses": "pkg:control/branch@1.0.0",
            "needs": ["plan"],
            "with": {"value": 1, "cases": [{"equals": 1, "steps": ["left"]}], "default": ["right"]},
        },
        {"id": "left", "needs": ["way"], "with": note},
        {"id": "right", "needs": ["way"], "with": note},
        {"id": "join", "needs": ["left", "right"], "join": "any", "with": note},
        {"id": "flaky", "needs": ["join"], "retries": 3, "with": {**note, "fail_first": 1}},
        {
            "id": "end",
            "needs": ["flaky", "each", "call", *(f"part{number}" for number in range(6))],
            "with": note,
        },
        name="release",
    )


def read_witness(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def has_lines(path: Path, count: int) -> bool:
    return read_witness(path).total() == count


def acknowledged(engine: Engine) -> set[str]:
    rows = engine.services.journal.steps("r1")
    return {f"begin {row.step} {row.iteration}" for row in rows if row.ended}


@pytest.mark.slow
def test_no_acknowledged_step_runs_twice(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    kills = rounds = 0
    while kills < KILLS:
        home = tmp_path / f"home{rounds}"
        home.mkdir()
        rounds += 1
        witness = home / "witness"
        engine = open_engine(home)
        engine.request(support.make_request("r1", make_release(support, witness)))
        done: dict[str, int] = {}
        for life in range(6):
            process = start(home)
            assert process.stdout
            process.stdout.readline()
            if life < 5 and kills < KILLS:
                time.sleep(chance.uniform(0.0, 0.25))
                alive = process.poll() is None
                kill(process)
                kills += alive
            else:
                process.communicate(timeout=60)
                assert process.returncode == 0
            counts = read_witness(witness)
            for step, count in done.items():
                assert counts[step] == count, f"{step} ran again after its acknowledgement (seed {seed})"
            done = {step: counts[step] for step in acknowledged(engine)}
            if engine.view("r1").status == "succeeded":
                break
        if engine.view("r1").status == "running":
            process = start(home)
            process.communicate(timeout=60)
        check_end(engine, seed)


def check_end(engine: Engine, seed: int) -> None:
    path = engine.close("r1")
    view = engine.view("r1")
    statuses = {step.step: step.status for step in view.steps}
    assert statuses.pop("right") == "skipped"
    assert set(statuses.values()) == {"done"}, f"seed {seed}"
    assert view.status == "succeeded"
    signer = engine.services.signer
    assert signer
    report = verify_bundle(path, [signer.public_pem])
    assert report.ok, report.problems
    spent = sum(event.cost_nano or 0 for event in engine.services.spool.read_run("r1"))
    assert sum(step.cost_nano or 0 for step in view.steps) == spent


def test_a_step_of_a_living_process_is_left_to_it(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    flow = support.make_flow({"id": "slow", "with": {"seconds": 30, "witness": str(tmp_path / "witness")}})
    engine = open_engine()
    engine.request(support.make_request("r1", flow))
    process = start(tmp_path)
    try:
        wait_for((tmp_path / "witness").exists)
        assert engine.orphaned() == ()
        assert not engine.take_lease("r1", "me")
        with pytest.raises(JournalError) as caught:
            list(engine.stream_segment("r1", ["slow"]))
        assert caught.value.error_code == "step-elsewhere"
        with pytest.raises(JournalError) as caught:
            engine.close("r1")
        assert caught.value.error_code == "run-busy"
    finally:
        kill(process)
    assert engine.orphaned() == ("r1",)
    assert engine.take_lease("r1", "me")
    engine.close("r1")
    view = engine.view("r1")
    assert view.steps[0].error
    assert (view.status, view.steps[0].error["code"]) == ("failed", "attempt-lost")


def test_a_loop_goes_on_with_the_items_that_are_missing(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    inner = {"witness": str(witness), "seconds": "${{ item }}"}
    flow = support.make_flow(
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": [0, 0, 0.5, 0], "uses": support.MAKE, "with": inner, "concurrency": 1},
        }
    )
    engine = open_engine()
    engine.request(support.make_request("r1", flow))
    process = start(tmp_path)
    wait_for(lambda: read_witness(witness)["begin each 2"] == 1)
    kill(process)
    outcomes = list(engine.stream_segment("r1", ["each"]))
    assert [(each.status, each.attempts) for each in outcomes] == [("done", 2)]
    assert read_witness(witness) == {f"begin each {number}": 1 + (number == 2) for number in range(4)}
    signer = engine.services.signer
    assert signer
    assert verify_bundle(engine.close("r1"), [signer.public_pem]).ok


def test_the_journal_itself_refuses_to_begin_what_is_done(
    engine: Engine, perform: Callable[..., Any], support: ModuleType
) -> None:
    perform(support.make_flow({"id": "one"}))
    (row,) = engine.services.journal.steps("r1")
    for work in (
        lambda c: writing.begin_attempt(c, "r1", row, "me", 0.0),
        lambda c: writing.acknowledge(c, "r1", row, "me"),
    ):
        with pytest.raises(JournalError) as caught:
            engine.services.journal.submit(work).result()
        assert caught.value.error_code in {"step-acknowledged", "step-elsewhere"}
    assert engine.services.journal.steps("r1") == [row]


def test_a_cancellation_from_another_process_ends_the_run(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    flow = support.make_flow(
        {"id": "slow", "with": {"seconds": 60, "witness": str(witness)}},
        {"id": "next", "needs": ["slow"]},
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": [60, 60], "uses": support.MAKE, "with": {"seconds": "${{ item }}"}},
        },
    )
    engine = open_engine()
    engine.request(support.make_request("r1", flow))
    process = start(tmp_path)
    wait_for(witness.exists)  # the step runs
    began = time.monotonic()
    assert engine.cancel("r1", "enough")
    process.communicate(timeout=20)
    assert time.monotonic() - began < 30
    view = engine.view("r1")
    assert view.status == "cancelled"
    assert {step.step: (step.status, step.attempts) for step in view.steps} == {
        "slow": ("cancelled", 1),
        "next": ("cancelled", 0),
        "each": ("cancelled", 1),
    }
    assert not engine.cancel("r1")


def test_a_step_that_kills_its_process_every_time_fails_at_last(
    open_engine: Callable[..., Engine], support: ModuleType, tmp_path: Path
) -> None:
    from maestro_dagster.engine.services import Limits

    flow = support.make_flow({"id": "slow", "with": {"seconds": 30, "witness": str(tmp_path / "witness")}})
    engine = open_engine(limits=Limits(lost_attempts=2))
    engine.request(support.make_request("r1", flow))
    for life in (1, 2):
        process = start(tmp_path)
        wait_for(partial(has_lines, tmp_path / "witness", life))
        kill(process)
    outcome = next(engine.stream_segment("r1", ["slow"]))
    assert outcome.error
    assert (outcome.status, outcome.attempts, outcome.error["code"]) == ("failed", 2, "attempt-lost")


def test_leaving_the_stream_early_can_be_taken_up_again(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"], "with": {"seconds": 0.2}})
    engine.request(support.make_request("r1", flow))
    stream = engine.stream_segment("r1", ["one", "two"])
    assert next(stream).step == "one"
    stream.close()
    assert engine.orphaned() == ("r1",)
    outcomes = [
        (each.step, each.fresh, each.attempts) for each in engine.stream_segment("r1", ["one", "two"])
    ]
    assert outcomes == [("one", False, 1), ("two", True, 2)]


def wait_for(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)
