from __future__ import annotations

import asyncio
import email.utils
import json
import time
from typing import Any

import pytest
from llm_support import KEY, Ledger, MakeHub, Provider, chat_body, http_reply

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.wire import MAX_ANSWER_BYTES, read_retry_after

ASK = ModelRequest(
    ({"role": "user", "content": "Hello"},), model="small", max_tokens=50, idempotency_key="abc"
)


def reply(value: Any) -> bytes:
    return http_reply(200, json.dumps(value).encode())


async def test_a_call_is_priced_by_the_asked_model_and_settled(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    answer = await make_hub(provider.url).generate(ASK, ledger)
    assert (answer.text, answer.provider, answer.model, answer.generative) == (
        "A fine answer.", "openai", "small", True,
    )  # fmt: skip
    # 60 x 0.15 + 40 x 0.075 + 20 x 0.6 USD for a million tokens
    assert answer.usage.cost_nano == 60 * 150 + 40 * 75 + 20 * 600
    assert answer.usage.price == "models@2026-01-01#small"
    (line, headers, body) = provider.requests[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["idempotency-key"] == "abc"
    assert body == {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    assert ledger.rows[0][:3] == ("intend", "openai", "small")
    assert ledger.rows[1] == ("settle", answer.usage, None)


async def test_the_reserve_is_written_before_the_call_and_covers_it(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(ledger.rows))

    provider.before = look
    answer = await make_hub(provider.url).generate(ASK, ledger)
    assert seen == [1]
    reserved, tokens = ledger.rows[0][3], ledger.rows[0][4]
    assert reserved >= (len("Hello") * 150 + 50 * 600)
    assert tokens >= len("Hello") + 50
    assert make_hub(provider.url).estimate_nano(ASK) == reserved
    assert answer.usage.cost_nano is not None


@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (401, False), (404, False), (422, False), (302, False),
                              (408, True), (429, True), (500, True), (503, True), (529, True)],
)  # fmt: skip
async def test_a_refusal_is_settled_at_nothing_and_says_whether_to_retry(
    provider: Provider, ledger: Ledger, make_hub: MakeHub, status: int, retryable: bool
) -> None:
    body = json.dumps({"error": {"message": f"no: Incorrect key {KEY}\x1b[31m"}}).encode()
    provider.replies = [http_reply(status, body, "Retry-After: 7\r\nLocation: http://127.0.0.1:1/\r\n")]
    with pytest.raises(ModelError) as caught:
        await make_hub(provider.url).generate(ASK, ledger)
    error = caught.value
    assert (error.error_code, error.retryable, error.retry_after) == ("model-refused", retryable, 7.0)
    assert KEY not in str(error)
    assert "\x1b" not in str(error)
    assert len(provider.requests) == 1  # no redirect was followed
    assert ledger.rows[1][1].cost_nano == 0
    assert ledger.rows[1][2] == "model-refused"


@pytest.mark.parametrize(
    "raw",
    [
        http_reply(200, b"{"),
        http_reply(200, b"[" * 100_000),
        http_reply(200, b"[]"),
        http_reply(200, b'{"choices":[]}'),
        http_reply(200, b'{"choices":[{"message":null}]}'),
        http_reply(200, json.dumps(chat_body()).encode()[:50], length=5000),  # cut off
        http_reply(200, b"x" * (MAX_ANSWER_BYTES + 200_000)),
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["half", "deep", "array", "no choice", "no message", "truncated", "huge", "no http", "nothing"],
)
async def test_a_broken_answer_may_have_been_billed_so_the_reserve_stands(
    provider: Provider, ledger: Ledger, make_hub: MakeHub, raw: bytes
) -> None:
    provider.replies = [raw]
    with pytest.raises(ModelError) as caught:
        await make_hub(provider.url).generate(ASK, ledger)
    assert (caught.value.error_code, caught.value.retryable) == ("model-unreachable", True)
    assert ledger.rows[1] == ("settle", None, "model-unreachable")


async def test_an_answer_without_end_is_left_at_the_limit(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    provider.replies = [http_reply(200, b"x" * (MAX_ANSWER_BYTES + 200_000), length=2**40)]
    provider.after = 30
    with pytest.raises(ModelError) as caught:
        await make_hub(provider.url).generate(ASK, ledger)
    assert "more than" in caught.value.fact


async def test_a_slow_provider_is_given_up(provider: Provider, ledger: Ledger, make_hub: MakeHub) -> None:
    provider.delay = 5
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        await make_hub(provider.url, timeout=0.2).generate(ASK, ledger)
    assert time.monotonic() - began < 2
    assert "0.2 s" in caught.value.fact
    assert ledger.rows[1] == ("settle", None, "model-unreachable")


async def test_nobody_there(ledger: Ledger, make_hub: MakeHub) -> None:
    with pytest.raises(ModelError) as caught:
        await make_hub("http://127.0.0.1:9/v1").generate(ASK, ledger)
    assert caught.value.retryable


async def test_a_cancelled_call_is_settled_at_its_reserve(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    provider.delay = 30
    arrived = asyncio.Event()

    async def note() -> None:
        arrived.set()

    provider.before = note
    task = asyncio.create_task(make_hub(provider.url).generate(ASK, ledger))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.rows[1] == ("settle", None, "cancelled")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": "9", "completion_tokens": 1},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": True, "completion_tokens": 1},
    ],
)
async def test_missing_usage_is_estimated_and_marked(
    provider: Provider, ledger: Ledger, make_hub: MakeHub, usage: Any
) -> None:
    provider.replies = [reply(chat_body("A text of some length.", usage))]
    answer = await make_hub(provider.url).generate(ASK, ledger)
    assert answer.usage.estimated
    assert answer.usage.tokens_in > 0
    assert answer.usage.tokens_out > 0
    assert answer.usage.cost_nano


async def test_more_cached_than_sent_is_cut_down(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}}
    provider.replies = [reply(chat_body(usage=usage))]
    answer = await make_hub(provider.url).generate(ASK, ledger)
    assert (answer.usage.tokens_cached, answer.usage.cost_nano) == (10, 10 * 75 + 600)


@pytest.mark.parametrize("text", ["", "  \n", "la " * 200])
async def test_a_degenerate_answer_is_paid_for_and_worth_another_try(
    provider: Provider, ledger: Ledger, make_hub: MakeHub, text: str
) -> None:
    provider.replies = [reply(chat_body(text))]
    with pytest.raises(ModelError) as caught:
        await make_hub(provider.url).generate(ASK, ledger)
    assert (caught.value.error_code, caught.value.retryable) == ("model-degenerate", True)
    assert ledger.rows[1][1].cost_nano > 0
    assert ledger.rows[1][2] == "model-degenerate"


async def test_content_in_parts_is_put_together(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    body = chat_body()
    body["choices"][0]["message"]["content"] = [
        {"type": "text", "text": "One "},
        {"type": "text", "text": "two"},
    ]
    provider.replies = [reply(body)]
    assert (await make_hub(provider.url).generate(ASK, ledger)).text == "One two"


async def test_the_environment_sends_no_call_elsewhere(
    provider: Provider, ledger: Ledger, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await make_hub(provider.url).generate(ASK, ledger)


async def test_sixteen_calls_at_once(provider: Provider, ledger: Ledger, make_hub: MakeHub) -> None:
    hub = make_hub(provider.url)
    answers = await asyncio.gather(*(hub.generate(ASK, ledger) for _ in range(16)))
    assert len({answer.text for answer in answers}) == 1
    assert len(provider.requests) == 16


def test_retry_after_is_a_number_or_a_date() -> None:
    assert read_retry_after(None) is None
    assert read_retry_after("soon") is None
    assert read_retry_after("nan") is None
    assert read_retry_after("-5") == 0
    assert read_retry_after("1e9") == 3600
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < (read_retry_after(later) or 0) <= 60
