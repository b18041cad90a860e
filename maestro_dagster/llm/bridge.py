"""Every provider that has no OpenAI-compatible endpoint, by litellm, imported at the first such call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.catalogue import Model
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.reply import RawReply
from maestro_dagster.llm.wire import read_answer, read_retry_after

_LONGEST_MESSAGE = 300
_TIMEOUT, _SERVER = 408, 500
_RETRYABLE = frozenset({_TIMEOUT, 409, 425, 429})


@lru_cache(maxsize=1)
def _load() -> Any:
    # Without this an offline import waits for a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    return litellm


async def call_litellm(model: Model, request: ModelRequest, key: str, timeout: float) -> RawReply:  # noqa: ASYNC109
    """Raises ModelError as `call_endpoint` does."""
    litellm = await asyncio.to_thread(_load)
    arguments: dict[str, Any] = {
        "model": model.model if "/" in model.model else f"{model.provider}/{model.model}",
        "messages": [{"role": item["role"], "content": item["content"]} for item in request.messages],
        "timeout": timeout,
        "num_retries": 0,
        "max_retries": 0,
        "max_tokens": request.max_tokens,
    }
    if request.temperature is not None:
        arguments["temperature"] = request.temperature
    if key:
        arguments["api_key"] = key
    if model.base_url:
        arguments["api_base"] = model.base_url
    if request.traceparent:
        arguments["extra_headers"] = {"traceparent": request.traceparent}
    try:
        response = await asyncio.wait_for(litellm.acompletion(**arguments), timeout + 1)
    except TimeoutError:
        raise _error(model, f"did not answer within {timeout:g} s", retryable=True) from None
    except Exception as error:  # noqa: BLE001 - litellm raises what its clients raise
        raise _translate(model, error, key) from None
    return read_answer(model, request, response.model_dump_json().encode())


def _translate(model: Model, error: Exception, key: str) -> ModelError:
    status = getattr(error, "status_code", None)
    text = str(getattr(error, "message", "") or error)
    if key:
        text = text.replace(key, "***")
    text = " ".join(text.split())[:_LONGEST_MESSAGE]
    # litellm gives a broken connection the status 500 and a timeout 408: no provider answered then.
    answered = isinstance(status, int) and status != _TIMEOUT and type(error).__name__ not in (
        "APIConnectionError", "Timeout",
    )  # fmt: skip
    retryable = not isinstance(status, int) or status in _RETRYABLE or status >= _SERVER
    result = _error(model, f"was refused: {text}", retryable=retryable)
    result.answered = answered
    result.status = status if answered else None
    headers = getattr(getattr(error, "response", None), "headers", None)
    if isinstance(headers, Mapping):
        result.retry_after = read_retry_after(headers.get("retry-after"))
    return result


def _error(model: Model, what: str, *, retryable: bool) -> ModelError:
    error = ModelError(
        f"the model {model.name!r} {what}",
        place=f"provider {model.provider}",
        remedy="try again later"
        if retryable
        else "check the model's line in resources/models.yaml and its key",
        code="model-unreachable" if retryable else "model-refused",
    )
    error.retryable = retryable
    return error
