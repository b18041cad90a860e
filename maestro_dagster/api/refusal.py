"""What an application that is not ours refuses is told as everything else that is refused here."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from maestro_dagster.api.problem import ProblemError, http_problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEPT = ("allow", "retry-after")  # of the headers of a refusal


class Refusals:
    """Raises ProblemError where `app` answers with an error that is no JSON: GraphQL has its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused: ProblemError | None = None

        async def watch(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = _read(message)
            if refused is None:
                await send(message)

        await self._app(scope, receive, watch)  # what is raised below goes on: the answer was held back
        if refused is not None:
            raise refused


def _read(start: Message) -> ProblemError | None:
    headers = Headers(raw=start.get("headers", []))
    if start["status"] < HTTPStatus.BAD_REQUEST or "json" in headers.get("content-type", ""):
        return None
    return http_problem(start["status"], {name: headers[name] for name in _KEPT if name in headers})
