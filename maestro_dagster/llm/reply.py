"""What came back from a provider, before it is priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maestro_dagster.llm.interface import ModelUsage

_BYTES_PER_TOKEN = 3  # on the safe side of the 4 that English text has
_ENOUGH_WORDS, _FEWEST_DISTINCT = 40, 0.1


@dataclass(frozen=True, slots=True)
class RawReply:
    text: str
    usage: ModelUsage
    finish_reason: str = "stop"
    notes: tuple[str, ...] = ()
    cpu_seconds: float = 0.0


def check_text(text: str) -> str | None:
    """Why a text cannot be an answer: nothing in it, or the same few words over and over."""
    if not text.strip():
        return "nothing"
    words = text.split()
    if len(words) >= _ENOUGH_WORDS and len(set(words)) < len(words) * _FEWEST_DISTINCT:
        return "the same words over and over"
    return None


def count_tokens(text: str) -> int:
    """An estimate for providers that send no usage."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def read_usage(value: Any, prompt: str, text: str) -> ModelUsage:
    """OpenAI's usage object; counted from the texts, and marked, where it is missing or makes no sense."""
    if isinstance(value, Mapping):
        tokens_in, tokens_out = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
        if tokens_in is not None and tokens_out is not None and (tokens_in or tokens_out):
            details = _details(value, "prompt_tokens_details")
            cached = _count(details, "cached_tokens") or _count(value, "prompt_cache_hit_tokens") or 0
            written = _count(value, "cache_creation_input_tokens") or 0
            reasoning = _count(_details(value, "completion_tokens_details"), "reasoning_tokens") or 0
            cached = min(cached, tokens_in)
            return ModelUsage(
                tokens_in,
                tokens_out,
                tokens_cached=cached,
                tokens_reasoning=min(reasoning, tokens_out),
                tokens_cache_write=min(written, tokens_in - cached),
            )
    return ModelUsage(count_tokens(prompt), count_tokens(text), estimated=True)


def _details(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = value.get(name)
    return details if isinstance(details, Mapping) else {}


def _count(value: Mapping[str, Any], name: str) -> int | None:
    count = value.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
