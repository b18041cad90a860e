"""Models and the cage with a span around each call; who is called learns of the trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.interface import CallLedger, ModelHub, ModelReply, ModelRequest, ModelUsage
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.sandbox.interface import Cage, CagedCommand, CagedResult
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import INTERNAL, Span, open_call

_SERVER_ERROR, _CLIENT_ERROR = 500, 400
_LATENCY_BOUNDS = name.ROUTER_LATENCY.buckets


@dataclass(slots=True)
class CallCount:
    """The calls of one model by one step: what `mc_router_*` adds up."""

    requests: int = 0
    success: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_LATENCY_BOUNDS) + 1))
    sum_ms: float = 0.0

    def add(self, milliseconds: float, failure: str) -> None:
        self.requests += 1
        self.sum_ms += milliseconds
        place = next((at for at, bound in enumerate(_LATENCY_BOUNDS) if milliseconds <= bound), -1)
        self.buckets[place] += 1
        if failure:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        else:
            self.success += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "success": self.success,
            "failures": dict(self.failures),
            "buckets": list(self.buckets),
            "sum_ms": round(self.sum_ms, 3),
        }


Note = Callable[[str, str, float, str], None]  # provider, model, milliseconds, class of the failure or ""


def note_nothing(provider: str, model: str, milliseconds: float, failure: str) -> None:
    """For whoever does not count calls."""


class TracedHub:
    """A model hub that tells of every call that was made: a request that cannot be routed is none."""

    def __init__(self, hub: ModelHub, note: Note) -> None:
        self._hub = hub
        self._note = note

    def estimate_nano(self, request: ModelRequest) -> int | None:
        return self._hub.estimate_nano(request)

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        told = _Eavesdropper(ledger)
        span: Span | None = None
        failure = "other"
        try:
            with open_call(f"chat {request.model or ''}".strip()) as span:
                span.attributes |= {name.GEN_AI_OPERATION: "chat", name.GEN_AI_REQUEST_MODEL: request.model}
                try:
                    reply = await self._hub.generate(
                        replace(request, traceparent=span.traceparent if span.trace_id else None), told
                    )
                except ModelError as error:
                    failure = class_of(error)
                    raise
                finally:
                    span.attributes |= {
                        name.GEN_AI_PROVIDER: told.provider or None,
                        name.GEN_AI_REQUEST_MODEL: request.model or told.model or None,
                    }
                _describe_reply(span, reply)
                failure = ""
                return reply
        except BaseException as error:
            if failure == "other" and not isinstance(error, Exception):
                failure = "cancelled"
            raise
        finally:
            if told.intended and span is not None and span.end:
                self._note(told.provider, told.model, (span.end - span.start) / 1e6, failure)


class TracedCage:
    """A cage whose commands find `TRACEPARENT` in their environment, as tools of OpenTelemetry expect."""

    def __init__(self, cage: Cage) -> None:
        self._cage = cage

    def refusal(self) -> str | None:
        return self._cage.refusal()

    async def run(self, command: CagedCommand) -> CagedResult:
        program = PurePath(command.argv[0]).name if command.argv else ""
        with open_call(f"exec {program}", kind=INTERNAL) as span:
            span.attributes |= {name.PROCESS_COMMAND: program, name.ISOLATION: command.isolation}
            if span.trace_id:
                command = replace(command, env={"TRACEPARENT": span.traceparent, **command.env})
            result = await self._cage.run(command)
            span.attributes[name.PROCESS_EXIT] = result.returncode
            if result.killed:
                span.fail(f"killed-{result.killed}")
            elif result.returncode:
                span.fail("exit-status", f"it ended with {result.returncode}")
            return result


class _Eavesdropper:
    """A ledger that remembers which model was asked."""

    def __init__(self, ledger: CallLedger) -> None:
        self._ledger = ledger
        self.provider = ""
        self.model = ""
        self.intended = False

    async def intend(
        self,
        provider: str,
        model: str,
        reserved_nano: int | None,
        *,
        reserved_tokens: int = 0,
        price: str = "",
    ) -> str:
        self.provider, self.model = provider, model
        call_id = await self._ledger.intend(
            provider, model, reserved_nano, reserved_tokens=reserved_tokens, price=price
        )
        self.intended = True
        return call_id

    def left_tokens(self) -> int | None:
        return self._ledger.left_tokens()

    async def settle(self, call_id: str, usage: ModelUsage | None, error: str | None = None) -> None:
        await self._ledger.settle(call_id, usage, error)


def class_of(error: ModelError) -> str:
    """5xx, 4xx, unreachable, degenerate or other: what an alert tells apart."""
    if error.status is not None and error.status >= _CLIENT_ERROR:
        return "5xx" if error.status >= _SERVER_ERROR else "4xx"
    plain = {"model-unreachable": "unreachable", "model-degenerate": "degenerate"}
    return plain.get(error.error_code, "other")


def _describe_reply(span: Span, reply: ModelReply) -> None:
    usage = reply.usage
    span.attributes |= {
        name.GEN_AI_PROVIDER: reply.provider,
        name.GEN_AI_RESPONSE_MODEL: reply.model,
        name.GEN_AI_FINISH_REASONS: [reply.finish_reason],
        name.GEN_AI_INPUT_TOKENS: usage.tokens_in,
        name.GEN_AI_OUTPUT_TOKENS: usage.tokens_out,
        name.GEN_AI_CACHED_TOKENS: usage.tokens_cached or None,
        name.GEN_AI_REASONING_TOKENS: usage.tokens_reasoning or None,
        name.COST_USD: None if usage.cost_nano is None else format_nano(usage.cost_nano),
    }
