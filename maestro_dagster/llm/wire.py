"""OpenAI-compatible endpoints over aiohttp: one request, one bounded answer, one kind of error."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.catalogue import Model
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.reply import RawReply, read_usage

if TYPE_CHECKING:
    import aiohttp

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 16 * 1024
_CONNECT_SECONDS = 10.0
_LONGEST_WAIT = 3600.0
_LONGEST_MESSAGE = 300
_RETRYABLE = frozenset({408, 409, 425, 429})
_OK, _REDIRECT, _SERVER = 200, 300, 500


async def call_endpoint(model: Model, request: ModelRequest, key: str, timeout: float) -> RawReply:  # noqa: ASYNC109
    """Raises ModelError: `model-refused` (answered with a status), `model-unreachable`, `model-answer`."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT_SECONDS)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if request.idempotency_key:
        headers["Idempotency-Key"] = request.idempotency_key
    if request.traceparent:
        headers["traceparent"] = request.traceparent
    try:
        # No cookies, no proxy or netrc from the environment: the catalogue alone says where a call goes.
        async with (
            aiohttp.ClientSession(
                timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.post(
                f"{model.base_url.rstrip('/')}/chat/completions",
                json=_body(model, request),
                headers=headers,
                allow_redirects=False,
            ) as response,
        ):
            if response.status != _OK:
                raise await _refusal(model, response, key)
            data = await _read(response, MAX_ANSWER_BYTES)
    except TimeoutError:
        raise _unreachable(model, f"did not answer within {timeout:g} s") from None
    except aiohttp.ClientError as error:
        raise _unreachable(model, f"broke off: {type(error).__name__}") from None
    except OSError as error:
        raise _unreachable(model, f"cannot be reached: {error.strerror or type(error).__name__}") from None
    if len(data) > MAX_ANSWER_BYTES:
        raise _unreachable(model, f"answered with more than {MAX_ANSWER_BYTES} bytes")
    return read_answer(model, request, data)


def read_answer(model: Model, request: ModelRequest, data: bytes) -> RawReply:
    """Text, usage and finish reason of a chat completion."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise _unreachable(model, "answered with something that is not JSON") from None
    choices = value.get("choices") if isinstance(value, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise _unreachable(model, "answered without a choice")
    text = _text(message.get("content"))
    prompt = "\n".join(item["content"] for item in request.messages)
    notes = (
        ()
        if isinstance(value.get("usage"), Mapping)
        else ("the provider sent no usage: tokens were estimated",)
    )
    return RawReply(
        text, read_usage(value.get("usage"), prompt, text), str(choice.get("finish_reason") or "stop"), notes
    )


def _body(model: Model, request: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model.model,
        "messages": [{"role": item["role"], "content": item["content"]} for item in request.messages],
    }
    # OpenAI's own newer models refuse `max_tokens`; most compatible servers know nothing else.
    field = "max_completion_tokens" if "api.openai.com" in model.base_url else "max_tokens"
    if request.max_tokens is not None:
        body[field] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """At most one chunk more than the limit, however much is sent."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(parts)


async def _refusal(model: Model, response: aiohttp.ClientResponse, key: str) -> ModelError:
    status = response.status
    detail = _message(await _read(response, MAX_ERROR_BYTES), key)
    if _REDIRECT <= status < 400:  # noqa: PLR2004
        detail, remedy = "redirects are not followed", "put the final URL into resources/models.yaml"
    elif status in (401, 403):
        remedy = (
            f"check the key {model.key}" if model.key else "the endpoint wants a key: name one in models.yaml"
        )
    elif status in _RETRYABLE or status >= _SERVER:
        remedy = "try again later"
    else:
        remedy = "change the request, or the model's line in resources/models.yaml"
    error = ModelError(
        f"the model {model.name!r} was refused with status {status}" + (f": {detail}" if detail else ""),
        place=model.base_url,
        remedy=remedy,
        code="model-refused",
    )
    error.answered, error.status = True, status
    error.retryable = status in _RETRYABLE or status >= _SERVER
    error.retry_after = read_retry_after(response.headers.get("Retry-After"))
    return error


def read_retry_after(value: str | None) -> float | None:
    """Seconds, from a number or an HTTP date (RFC 9110 section 10.2.3); at most an hour."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT) if math.isfinite(seconds) else None


def _message(data: bytes, key: str) -> str:
    """The provider's words, without the key that some of them repeat."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    error = value.get("error") if isinstance(value, Mapping) else None
    text = error.get("message") if isinstance(error, Mapping) else error
    if not isinstance(text, str):
        return ""
    if key:
        text = text.replace(key, "***")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:_LONGEST_MESSAGE]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [
            item.get("text") for item in content if isinstance(item, Mapping) and item.get("type") == "text"
        ]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _unreachable(model: Model, what: str) -> ModelError:
    error = ModelError(
        f"the model {model.name!r} {what}",
        place=model.base_url,
        remedy="try again; if it stays, check the endpoint",
        code="model-unreachable",
    )
    error.retryable = True
    return error
