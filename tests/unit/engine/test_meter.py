"""What an attempt is charged for: its share of the process's memory, and the CPU of its own resumptions."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.engine.meter import AttemptMeter, SharedMemory, measure, read_resident


class World:
    """A clock and a process whose size are set by hand."""

    def __init__(self) -> None:
        self.now, self.size = 0.0, 100

    def memory(self) -> SharedMemory:
        return SharedMemory(lambda: self.size, lambda: self.now)


def test_one_that_is_alone_is_charged_for_all() -> None:
    world = World()
    memory = world.memory()
    mark = memory.enter()
    world.now = 10.0
    assert memory.leave(mark) == 1000


def test_two_share_while_both_are_there() -> None:
    world = World()
    memory = world.memory()
    first = memory.enter()
    world.now = 10.0
    second = memory.enter()
    world.now = 20.0
    assert memory.leave(second) == 500
    world.now = 30.0
    assert memory.leave(first) == 1000 + 500 + 1000


def test_nobody_is_charged_for_the_time_before() -> None:
    world = World()
    memory = world.memory()
    memory.leave(memory.enter())
    world.now, world.size = 1000.0, 300
    mark = memory.enter()
    world.now = 1001.0
    assert memory.leave(mark) == 300


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 5), st.integers(0, 1000)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_shares_add_up_to_what_the_process_held(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    memory = world.memory()
    open_marks: list[float] = []
    charged = held = 0.0
    for what, seconds, size in steps:
        if open_marks:
            held += seconds * (world.size + size) / 2
        world.now, world.size = world.now + seconds, size
        if what == "+" or not open_marks:
            open_marks.append(memory.enter())
        else:
            charged += memory.leave(open_marks.pop(0))
    charged += sum(memory.leave(mark) for mark in open_marks)
    assert charged == pytest.approx(held)


async def test_an_attempt_is_charged_for_memory_while_it_waits() -> None:
    meter = AttemptMeter()
    await measure(asyncio.sleep(0.05), meter)
    size = read_resident()
    assert size > 10**7
    assert size * 0.05 / 5 < meter.memory < size * 0.05 * 100


async def test_an_attempt_that_fails_or_is_cancelled_leaves() -> None:
    world = World()
    memory = world.memory()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await measure(fail(), AttemptMeter(memory))
    task = asyncio.ensure_future(_awaited(AttemptMeter(memory)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    mark = memory.enter()
    world.now = 1.0
    assert memory.leave(mark) == 100  # nobody else is left to share with


async def _awaited(meter: AttemptMeter) -> None:
    await measure(asyncio.sleep(60), meter)


def test_a_meter_takes_no_negative_use() -> None:
    meter = AttemptMeter()
    meter.add_memory(-5)
    meter.add_cpu(-5)
    meter.add_network(-5, -5)
    assert (meter.memory, meter.cpu, meter.bytes_in, meter.bytes_out) == (0, 0, 0, 0)
