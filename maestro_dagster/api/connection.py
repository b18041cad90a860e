"""HTTP connections that send their heads in time, not too much of them, and do not stay for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024  # and what came with the packet that passed it
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's, which would wait for ever for the rest of a head, and keep all of it.

    So it would for what comes when the answer is out already (the rest of a body, an empty line), and all
    of the fields behind a body in chunks.
    """

    _timer: asyncio.TimerHandle | None = None
    _heading = True
    _size = 0  # bytes since the last that was part of a body, or ended a head

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
                self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait()  # uvicorn's own limit for idle connections ended with the first byte

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True
        self._wait()

    def on_headers_complete(self) -> None:
        self._forget()
        self._heading, self._size = False, 0
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
