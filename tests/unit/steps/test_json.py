from __future__ import annotations

import json
import time
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.json_query import JsonQuery

DATA = {"people": [{"name": "Ada", "age": 36}, {"name": "Bo", "age": 7}], "empty": None, "text": "é"}


async def query(bench: Any, text: str, value: Any = DATA, **config: Any) -> Any:
    artifact = bench.put(json.dumps(value), "application/json")
    return await bench.run(JsonQuery(), {"query": text, **config}, data=artifact)


async def fault(bench: Any, text: str, value: Any = DATA, **config: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        await query(bench, text, value, **config)
    return caught.value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("people[?age > `18`].name", b'["Ada"]'),
        ("people[0]", b'{"age":36,"name":"Ada"}'),
        ("length(people)", b"2"),
        ("text", '"é"'.encode()),
        ("people[*].[name, age]", b'[["Ada",36],["Bo",7]]'),
    ],
)
async def test_answers_are_canonical_json(bench: Any, text: str, answer: bytes) -> None:
    result = await query(bench, text)
    assert result.data == answer
    assert result.media_type == "application/json"


async def test_nothing_found_fails_unless_it_may(bench: Any) -> None:
    assert (await fault(bench, "gone.deeper")).error_code == "query-empty"
    result = await query(bench, "gone", required=False)
    assert (result.data, result.facts) == (b"null", {"type": "null"})


@pytest.mark.parametrize("text", ["people[", "a.[", "???", "(" * 3000, "no_such_function(@)", "length(`1`)"])
async def test_a_wrong_query_is_a_coded_error(bench: Any, text: str) -> None:
    assert (await fault(bench, text)).error_code in {"query-syntax", "query-failed"}


async def test_growth_is_bounded(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maestro_dagster.steps.json_query.WALL_SECONDS", 1.0)
    started = time.monotonic()
    doubling = " | ".join(["[@, @] | []"] * 60)
    error = await fault(bench, doubling, [1, 2, 3])
    assert error.error_code in {"step-too-slow", "step-too-large", "query-too-large"}
    assert time.monotonic() - started < 20


async def test_a_long_answer_is_refused(bench: Any) -> None:
    assert (await fault(bench, "@", ["x" * 100] * 100, max_bytes=1000)).error_code == "query-too-large"


async def test_both_ways_of_querying_agree(bench: Any) -> None:
    few = await query(bench, "people[*].name")
    many = await query(bench, "people[*].[name] | [] | [] | [] | []")
    assert few.data == many.data


async def test_the_input_is_chosen_by_name(bench: Any) -> None:
    one, two = bench.put("1", "application/json"), bench.put("2", "application/json")
    result = await bench.run(JsonQuery(), {"query": "@", "input": "two"}, one=one, two=two)
    assert result.data == b"2"
    for config in ({"query": "@"}, {"query": "@", "input": "three"}):
        with pytest.raises(StepError) as caught:
            await bench.run(JsonQuery(), config, one=one, two=two)
        assert caught.value.error_code in {"input-ambiguous", "input-missing"}


@pytest.mark.parametrize(
    ("data", "media_type"), [("x", "text/plain"), ("{", "application/json"), ("NaN", "text/x+json")]
)
async def test_what_is_no_json_is_refused(bench: Any, data: str, media_type: str) -> None:
    with pytest.raises(StepError) as caught:
        await bench.run(JsonQuery(), {"query": "@"}, a=bench.put(data, media_type))
    assert caught.value.error_code == "input-not-json"
