"""A provider on a real loopback socket that speaks the OpenAI protocol and fails as real ones do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.llm.hub import Hub, open_hub
from maestro_dagster.llm.interface import ModelUsage

KEY = "sk-test-0123456789"
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 40}}


def chat_body(
    text: str = "A fine answer.", usage: dict[str, Any] | None = USAGE, **more: Any
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-by-another-name",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    return body | ({"usage": usage} if usage is not None else {}) | more


def http_reply(status: int, body: bytes, headers: str = "", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n{headers}"
    return head.encode() + b"Connection: close\r\n\r\n" + body


@dataclass
class Provider:
    """`replies` are sent in turn, the last one for ever; `requests` is what came in."""

    port: int = 0
    replies: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    delay: float = 0.0
    after: float = 0.0  # seconds that the connection stays open after the reply
    before: Callable[[], Awaitable[None]] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((lines[0], headers, json.loads(body) if body else None))
            if self.before is not None:
                await self.before()
            await asyncio.sleep(self.delay)
            writer.write(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])
            await writer.drain()
            await asyncio.sleep(self.after)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found = Provider(replies=[http_reply(200, json.dumps(chat_body()).encode())])
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@dataclass
class Ledger:
    """Remembers what the hub wrote down, in order."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)

    async def intend(
        self,
        provider: str,
        model: str,
        reserved_nano: int | None,
        *,
        reserved_tokens: int = 0,
        price: str = "",
    ) -> str:
        self.rows.append(("intend", provider, model, reserved_nano, reserved_tokens, price))
        return "call-1"

    def left_tokens(self) -> int | None:
        return None

    async def settle(self, call_id: str, usage: ModelUsage | None, error: str | None = None) -> None:
        self.rows.append(("settle", usage, error))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


MODELS = """
version: 1
priced_at: "2026-01-01"
models:
  - {name: extractive, provider: builtin, price: {free: true}}
  - name: small
    provider: openai
    key: OPENAI_API_KEY
    max_output: 500
    price: {input: "0.15", cached: "0.075", output: "0.6"}
    quality: 0.5
    p95_ms: 300
    regions: [EU]
  - name: large
    provider: openai
    key: OPENAI_API_KEY
    price: {input: "2.5", output: "10"}
    quality: 0.9
    p95_ms: 900
    regions: [US, EU]
  - name: unpriced
    provider: openai
    key: OPENAI_API_KEY
    quality: 1
    p95_ms: 1
"""


MakeHub = Callable[..., Hub]


@pytest.fixture
def make_hub(tmp_path: Path) -> Callable[..., Hub]:
    def make(
        base_url: str | None = None, *, models: str = MODELS, key: str | None = KEY, timeout: float = 5
    ) -> Hub:
        path = tmp_path / "models.yaml"
        path.write_text(models)
        return open_hub(path, base_url, secret=lambda name: key, timeout=timeout)

    return make
