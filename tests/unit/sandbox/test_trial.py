"""The trial that says whether this machine builds cages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from maestro_dagster.sandbox.cage import LinuxCage, open_cage


@pytest.mark.parametrize(
    ("codes", "refusal"),
    [
        ([0], None),
        ([-9, 0], None),  # a busy machine killed the first
        ([-9, -9], "a trial command ended with -9"),
    ],
)
def test_a_trial_that_fails_is_made_once_more(
    codes: list[int], refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(codes)

    async def run(*_: Any) -> Any:
        return SimpleNamespace(returncode=left.pop(0))

    monkeypatch.setattr(LinuxCage, "_run", run)
    cage = open_cage()
    assert cage.refusal() == refusal
    assert cage.refusal() == refusal, "the answer is kept"
    assert left == []
