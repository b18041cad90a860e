"""What the steps and the engine see of the model hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """`messages` are OpenAI chat messages. `route` narrows: max_p95_ms, minimise, quality_floor."""

    messages: tuple[dict[str, str], ...]
    model: str | None = None  # a name of the catalogue; None lets the hub choose
    provider: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    route: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(
        default_factory=dict
    )  # of the built-in provider: min_words, max_words, keywords
    region: str | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None  # of the caller's span (W3C Trace Context), sent to the provider


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Tokens as the provider counted them; `cost_nano` is 10^-9 USD, None when no price is known.

    `tokens_in` includes the cached ones and those written to a cache, `tokens_out` the reasoning ones.
    `nano_*` are the parts of the cost by kind of token and add up to it; None where there was no such token,
    or no price.
    """

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    cost_nano: int | None = None
    tokens_cache_write: int = 0
    price: str = ""  # which price list said so: "models@2026-01-01#gpt-4o"
    estimated: bool = False  # the provider sent no usage: counted here, from the text
    nano_in: int | None = None  # of the prompt tokens that were neither cached nor written to a cache
    nano_out: int | None = None
    nano_cached: int | None = None
    nano_cache_write: int | None = None


@dataclass(frozen=True, slots=True)
class ModelReply:
    text: str
    provider: str
    model: str
    usage: ModelUsage
    latency_ms: int
    generative: bool  # False: the built-in extractive provider; reports must say so
    finish_reason: str = "stop"
    notes: tuple[str, ...] = ()  # what the reader should know: no provider configured, input too short
    cpu_seconds: float = 0.0  # spent here, in another thread than the caller's


class CallLedger(Protocol):
    """Where a call is written down before it is made, and again when its cost is known."""

    async def intend(
        self,
        provider: str,
        model: str,
        reserved_nano: int | None,
        *,
        reserved_tokens: int = 0,
        price: str = "",
    ) -> str:
        """Durable before it returns; gives the id to settle. Raises CostError when the budget is used up."""

    def left_tokens(self) -> int | None:
        """What the tightest token budget leaves; None when there is none."""

    async def settle(self, call_id: str, usage: ModelUsage | None, error: str | None = None) -> None: ...


class ModelHub(Protocol):
    def estimate_nano(self, request: ModelRequest) -> int | None:
        """Upper estimate of the cost in 10^-9 USD, None when no price is known."""

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        """Raises ModelError (`model-unknown`, `model-refused`, `model-unreachable`, `model-degenerate`)."""
