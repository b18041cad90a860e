"""What the loop says, and how often it tries, while something it needs is away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.workers import loop as module
from maestro_dagster.workers.loop import Loop


def test_a_pass_that_fails_again_is_said_once_and_tried_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tries, said = [1000.0], [], []
    trouble: list[str] = ["no rights"]

    def take(*, retry: bool = False) -> int:
        tries.append(clock[0])
        if trouble:
            raise EventError(trouble[0], code="inbox-unavailable")
        return 0

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    nothing: Any = SimpleNamespace(fill=lambda: None)
    intake: Any = SimpleNamespace(take=take, has_drops=lambda: True)
    loop = Loop(nothing, intake, nothing, nothing, nothing, [], said.append)

    def live(seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            loop.turn(0)
            clock[0] += 0.1

    live(60)
    assert len(said) == 1
    assert "no rights" in said[0]
    assert 8 <= len(tries) <= 12
    assert tries[1] - tries[0] < 1.5, "the first time at once"
    trouble[0] = "disk full"
    live(20)
    assert len(said) == 2
    trouble.clear()
    live(20)
    assert len(said) == 3
    before = len(tries)
    live(1)
    assert len(tries) - before >= 9, "drops are looked at again ten times a second"
    trouble.append("no rights")
    live(1)
    assert "no rights" in said[3]
