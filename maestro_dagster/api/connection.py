"""HTTP connections that send their heads in time, not too much of them, and do not stay for nothing."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from maestro_dagster.api.problem import MEDIA_TYPE, ProblemError, make_problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024  # and what came with the packet that passed it
_BROKEN = ProblemError(
    HTTPStatus.BAD_REQUEST, "http-broken", "this is no HTTP/1.1", remedy="send it as HTTP/1.1"
)
_TOO_LARGE = ProblemError(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-large",
    f"the head of the request is larger than {HEAD_BYTES} bytes",
    remedy="send fewer or shorter header fields",
)
_CROWDED = ProblemError(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "server-crowded",
    "too many connections are open",
    remedy="send it again",
    headers={"retry-after": "1", "connection": "close"},
)


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's, which would wait for ever for the rest of a head, and keep all of it.

    So it would for what comes when the answer is out already (the rest of a body, an empty line), and all
    of the fields behind a body in chunks.
    """

    _timer: asyncio.TimerHandle | None = None
    _heading = True
    _size = 0  # bytes since the last that was part of a body, or ended a head

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # its own refusal is plain text
        self._served = self.app

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a websocket's by now
            return
        if self._size > HEAD_BYTES:
            if self._heading:
                self.transport.write(_as_bytes(_TOO_LARGE))
            self.transport.close()
        elif self._timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait()  # uvicorn's own limit for idle connections ended with the first byte

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's words of what cannot be read, as a problem."""
        del msg
        self.transport.write(_as_bytes(_BROKEN))
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True
        self._wait()

    def on_headers_complete(self) -> None:
        self._forget()
        self._heading, self._size = False, 0
        crowd = max(len(self.connections), len(self.tasks))
        crowded = self._most is not None and crowd >= self._most
        if crowded:
            self.logger.warning("Exceeded concurrency limit.")
        self.app = _tell_crowded if crowded else self._served
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._size = 0
        super().on_body(body)

    def _wait(self) -> None:
        self._forget()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


async def _tell_crowded(scope: Scope, receive: Receive, send: Send) -> None:
    unnamed = {**scope, "path": ""}  # nobody has looked for secrets in it
    await make_problem(_CROWDED, unnamed)(scope, receive, send)


def _as_bytes(error: ProblemError) -> bytes:
    """A whole answer, where there is no request to answer: it has no path, and no trace."""
    form = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": error.fact,
        "code": error.code,
        "remedy": error.remedy,
    }
    body = json.dumps(form).encode()
    head = (
        f"HTTP/1.1 {int(error.status)} {error.status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        f"cache-control: no-store\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
