"""Bodies of requests: never larger than allowed, never slower, and never too much of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from maestro_dagster.api.problem import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOTAL_BYTES = 128 * 1024 * 1024  # of all bodies that are being read, or wait to be worked on


class BodyReader:
    """Reads whole bodies: `limit` is of one, in bytes, `seconds` to send it in, `total` of all at once.

    A body counts towards the total until the block of `hold` ends.
    """

    def __init__(self, limit: int, seconds: float, total: int = TOTAL_BYTES) -> None:
        self._limit = limit
        self._seconds = seconds
        self._total = total
        self._held = 0

    @asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[bytes]:
        """The body, for as long as somebody needs it. Raises what `read` raises."""
        body = await self.read(request)
        size = len(body)
        try:
            yield body
        finally:
            self._held -= size

    async def read(self, request: Request) -> bytes:
        """Raises ProblemError: 400, 408, 411, 413, 415, 503."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "body-encoded",
                "the body is compressed",
                remedy="send it as it is: the signature is that of the plain body",
            )
        length = request.headers.get("content-length")
        if length is not None and int(length) > self._limit:  # uvicorn refuses what is no number
            raise self._too_large()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(request)
        except TimeoutError:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                "body-slow",
                f"the body did not arrive within {self._seconds:g} s",
                remedy="send it again",
                headers={"connection": "close"},
            ) from None
        except ClientDisconnect:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, "body-torn", "the connection ended within the body"
            ) from None

    async def _collect(self, request: Request) -> bytes:
        parts: list[bytes] = []
        size = 0
        whole = False
        try:
            async for part in request.stream():
                size += len(part)
                self._held += len(part)
                parts.append(part)
                if size > self._limit:
                    raise self._too_large()
                if self._held > self._total:
                    raise ProblemError(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        "body-crowded",
                        "too many large bodies are being sent at once",
                        remedy="send it again",
                        headers={"retry-after": "1", "connection": "close"},
                    )
            whole = True
            return b"".join(parts)
        finally:
            if not whole:
                self._held -= size

    def _too_large(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body-too-large",
            f"the body is larger than {self._limit} bytes",
            remedy="send less at once",
            headers={"connection": "close"},
        )


class WholeBody:
    """For an application that would read any body for as long as it takes: it gets it when it is whole."""

    def __init__(self, app: ASGIApp, reader: BodyReader) -> None:
        self._app = app
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        async with self._reader.hold(Request(scope, receive)) as body:
            given = False

            async def replay() -> Message:
                nonlocal given
                if given:
                    return await receive()  # that the caller has gone
                given = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, replay, send)
