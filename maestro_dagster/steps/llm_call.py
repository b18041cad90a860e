"""What the model kinds share: their settings, the call, and the checks of its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from maestro_dagster.errors import ModelError, StepError
from maestro_dagster.llm.interface import ModelReply, ModelRequest
from maestro_dagster.llm.text import count_words, has_phrase
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.steps.interface import StepConfig, StepContext

DEFAULT_MATERIAL = 48_000  # bytes
_LEAST_MATERIAL = 256
_OVERHEAD = 1_024  # bytes of instructions and marks around prompt and material
_WORDS_PER_TOKEN_MARGIN = 3  # tokens that a wanted word may take, markup and all
_PREVIEW = 4_000


class Route(StepConfig):
    """Narrows the choice when no model is named."""

    max_p95_ms: int | None = Field(default=None, ge=1)
    minimise: Literal["cost", "latency"] = "cost"
    quality_floor: float | None = Field(default=None, ge=0, le=1)
    region: str | None = None


class ModelConfig(StepConfig):
    system: str | None = Field(default=None, max_length=65536)
    model: str | None = None
    provider: str | None = None
    route: Route = Route()
    max_tokens: int | None = Field(default=None, ge=1, le=200_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    min_words: int | None = Field(default=None, ge=1, le=20_000)
    max_words: int | None = Field(default=None, ge=1, le=50_000)
    keywords: tuple[str, ...] = Field(default=(), max_length=50)
    budget_tokens: int | None = Field(default=None, ge=1, description="the call's prompt and answer together")
    output: str | None = Field(default=None, max_length=255, description="the name that people see")

    @model_validator(mode="after")
    def _check_words(self) -> ModelConfig:
        if self.min_words and self.max_words and self.max_words < self.min_words:
            raise ValueError("max_words is less than min_words")
        if any(not re.search(r"\w", keyword) for keyword in self.keywords):
            raise ValueError("a keyword needs a letter or a digit")
        return self


def answer_limit(config: ModelConfig) -> int:
    """Tokens that the answer may have."""
    if config.max_tokens is not None:
        return config.max_tokens
    wanted = config.max_words or 2 * (config.min_words or 0)
    limit = max(1024, wanted * _WORDS_PER_TOKEN_MARGIN)
    return limit if config.budget_tokens is None else max(1, min(limit, config.budget_tokens // 2))


def material_limit(config: ModelConfig, prompt: str, left_tokens: int | None = None) -> int:
    """Bytes of material that fit: a text never has more tokens than bytes, so the budget holds.

    `left_tokens` is what other budgets leave. Raises StepError (`budget-small`) when the prompt alone
    does not fit.
    """
    budgets = [budget for budget in (config.budget_tokens, left_tokens) if budget is not None]
    if not budgets:
        return DEFAULT_MATERIAL
    fixed = len(prompt.encode()) + len((config.system or "").encode()) + _OVERHEAD
    left = min(budgets) - answer_limit(config) - fixed
    if left < _LEAST_MATERIAL:
        raise StepError(
            f"the token budget of {min(budgets)} leaves no room for any input",
            remedy=f"make it {min(budgets) - left + _LEAST_MATERIAL} or more, or lower max_tokens",
            code="budget-small",
        )
    return min(left, DEFAULT_MATERIAL)


def build_request(
    config: ModelConfig,
    messages: Sequence[dict[str, str]],
    options: Mapping[str, Any],
    *,
    region: str | None = None,
    idempotency_key: str | None = None,
) -> ModelRequest:
    return ModelRequest(
        messages=tuple(messages),
        model=config.model,
        provider=config.provider,
        max_tokens=answer_limit(config),
        temperature=config.temperature,
        route=Route.model_validate(config.route).model_dump(exclude_none=True),
        options=dict(options),
        region=region,
        idempotency_key=idempotency_key,
    )


async def call_model(context: StepContext, request: ModelRequest) -> ModelReply:
    """Raises StepError with the model's code; a refused budget passes as the CostError it is."""
    try:
        reply = await context.models.generate(request, context.ledger)
    except ModelError as error:
        failure = StepError(error.fact, place=error.place, remedy=error.remedy, code=error.error_code)
        failure.retryable = error.retryable
        failure.retry_after = error.retry_after
        raise failure from error
    context.meter.add_cpu(reply.cpu_seconds)
    for note in reply.notes:
        context.log(note)
    return reply


def describe_reply(reply: ModelReply) -> dict[str, Any]:
    """The `model` of a claim."""
    usage = reply.usage
    return {
        "provider": reply.provider,
        "model": reply.model,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "tokens_cached": usage.tokens_cached,
        "tokens_estimated": usage.estimated,
        "latency_ms": reply.latency_ms,
        "generative": reply.generative,
        "cost_usd": None if usage.cost_nano is None else format_nano(usage.cost_nano),
        "price": usage.price,
    }


def check_answer(config: ModelConfig, text: str, reply: ModelReply) -> dict[str, Any]:
    """Facts of the text. Raises StepError (`answer-words`, `answer-keywords`).

    Worth another try only where a model writes: the built-in provider gives the same answer each time.
    """
    words = count_words(text)
    missing = [keyword for keyword in config.keywords if not has_phrase(text, keyword)]
    least, most = config.min_words or 0, config.max_words
    if words < least or (most is not None and words > most):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise _unfit(reply, f"the answer has {words} words instead of {wanted}", "answer-words")
    if missing:
        raise _unfit(reply, f"the answer lacks the keywords {', '.join(missing)}", "answer-keywords")
    return {"words": words, "keywords": list(config.keywords)}


def make_preview(text: str) -> str:
    return text.encode()[:_PREVIEW].decode(errors="ignore")


def _unfit(reply: ModelReply, fact: str, code: str) -> StepError:
    error = StepError(
        fact,
        place=f"model {reply.model}",
        remedy="loosen the check, or name a better model"
        if reply.generative
        else "give it more input: "
        + ("; ".join(reply.notes) or "the built-in provider only chooses sentences"),
        code=code,
    )
    error.retryable = reply.generative
    return error
