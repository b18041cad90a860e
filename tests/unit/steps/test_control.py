from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from maestro_dagster.errors import StepError
from maestro_dagster.steps.control_branch import ControlBranch
from maestro_dagster.steps.control_map import ControlMap
from maestro_dagster.steps.control_rate import ControlRate

CASES = [
    {"equals": True, "steps": ["yes"]},
    {"equals": 1, "steps": ["one"]},
    {"equals": {"a": [1, None]}, "steps": ["deep"]},
    {"equals": "x", "steps": ["x1", "x2"]},
]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (True, ("yes",)),
        (1, ("one",)),
        (1.0, ("one",)),
        ("1", ("other",)),
        ({"a": [1.0, None]}, ("deep",)),
        ("x", ("x1", "x2")),
        (None, ("other",)),
    ],
)
async def test_the_branch_takes_the_first_case_that_is_equal_as_json(
    bench: Any, value: Any, chosen: Any
) -> None:
    result = await bench.run(ControlBranch(), {"value": value, "cases": CASES, "default": ["other"]})
    assert result.chosen == chosen
    assert json.loads(result.data) == {"value": value, "chosen": list(chosen)}


async def test_no_case_and_no_default_chooses_nothing(bench: Any) -> None:
    assert (await bench.run(ControlBranch(), {"value": 9, "cases": CASES})).chosen == ()


@pytest.mark.parametrize(
    "config",
    [
        {"uses": "pkg:control/map@1.0.0"},
        {"uses": "text/template"},
        {"uses": "pkg:text/template@1.0.0", "max_items": 1001},
        {"uses": "pkg:text/template@1.0.0", "concurrency": 17},
        {"uses": "pkg:text/template@1.0.0", "other": 1},
    ],
)
def test_a_loop_that_is_not_bounded_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ControlMap().config.model_validate(config)


async def test_a_loop_outside_of_the_engine_says_so(bench: Any) -> None:
    with pytest.raises(StepError, match="cannot run by itself"):
        await bench.run(
            ControlMap(), {"uses": "pkg:text/template@1.0.0", "with": {"template": "${{ item }}"}}
        )


async def test_the_rate_waits_until_it_is_told_to_go(bench: Any) -> None:
    answers = [0.02, 0.01, 0.0]
    asked: list[tuple[str, int, float]] = []

    def acquire(key: str, limit: int, seconds: float) -> float:
        asked.append((key, limit, seconds))
        return answers[len(asked) - 1]

    bench.acquire_rate = acquire
    result = await bench.run(ControlRate(), {"key": "api", "limit": 2, "per_seconds": 1})
    assert asked == [("api", 2, 1.0)] * 3
    assert result.facts == {"key": "api", "waited_seconds": 0.03}


async def test_the_rate_without_a_journal_is_refused(bench: Any) -> None:
    with pytest.raises(StepError) as caught:
        await bench.run(ControlRate(), {"key": "api", "limit": 2, "per_seconds": 1})
    assert caught.value.error_code == "control-rate-alone"
