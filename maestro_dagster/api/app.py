"""The application: our routes, and whatever serves the Dagster UI below `/dagster`. Knows no Dagster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from maestro_dagster.api.access import Access, AccessLog
from maestro_dagster.api.body import BodyReader, WholeBody
from maestro_dagster.api.gate import UI, Gate
from maestro_dagster.api.health import ready_endpoint, tell_health
from maestro_dagster.api.metric import metrics_endpoint
from maestro_dagster.api.problem import ProblemError, as_problem, http_problem, make_problem, note_error
from maestro_dagster.api.webhook import webhook_endpoint
from maestro_dagster.project.backend import Backend

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

UI_BODY_BYTES = 8 * 1024 * 1024  # a query, or the configuration of a run
UI_BODY_SECONDS = 30.0
UiState = str  # `ready`, `loading`, `failed` or `off`
_LOADING_PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Loading</title><p>The Dagster UI is still loading.</p></html>
"""
_UI_ASKS_AT_ROOT = ("/favicon", "/manifest.json")  # what Dagster's pages ask for without the prefix


class UiSlot:
    """The place of the Dagster UI: empty while it loads, which takes seconds, or for good where it is off."""

    def __init__(self, *, wanted: bool) -> None:
        self.app: ASGIApp | None = None
        self.failed = False
        self._wanted = wanted

    @property
    def state(self) -> UiState:
        if self.app is not None:
            return "ready"
        if not self._wanted:
            return "off"
        return "failed" if self.failed else "loading"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
            return
        problem = _UI_PROBLEMS[self.state]()
        if self.state != "loading" or "text/html" not in Headers(scope=scope).get("accept", ""):
            raise problem
        note_error(scope, problem)
        page = HTMLResponse(_LOADING_PAGE, problem.status, {**problem.headers, "cache-control": "no-store"})
        await page(scope, receive, send)


class Dispatch:
    """By path. The UI gets its whole path: it knows its prefix, and a mount would take it away."""

    def __init__(self, ours: ASGIApp, ui: ASGIApp) -> None:
        self._ours = ours
        self._ui = ui

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._ours(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith(_UI_ASKS_AT_ROOT):
            path = UI + path
            scope = {**scope, "path": path, "raw_path": path.encode()}
        below = path == UI or path.startswith(f"{UI}/")
        await (self._ui if below else self._ours)(scope, receive, send)


def build_app(backend: Backend, ui: UiSlot) -> ASGIApp:
    """The ASGI application; `ui` may be filled later."""
    routes = [
        Route("/", _go_to_ui, methods=["GET"]),
        Route("/healthz", tell_health, methods=["GET"]),
        Route("/readyz", ready_endpoint(backend, lambda: ui.state), methods=["GET"]),
        Route("/metrics", metrics_endpoint(backend), methods=["GET"]),
        Route("/webhooks/{name}", webhook_endpoint(backend), methods=["POST"]),
    ]
    ours = Starlette(routes=routes, exception_handlers=_HANDLERS)
    ours.router.redirect_slashes = False
    pages = WholeBody(ui, BodyReader(UI_BODY_BYTES, UI_BODY_SECONDS))
    log = AccessLog(backend.log, backend.hide)
    return Access(Gate(Dispatch(ours, pages), backend.hosts), log, backend.observe)


async def _go_to_ui(_: Request) -> Response:
    return RedirectResponse(f"{UI}/", HTTPStatus.TEMPORARY_REDIRECT)


async def _tell_problem(request: Request, error: Exception) -> Response:
    note_error(request.scope, error)
    return make_problem(as_problem(error), request.scope)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return await _tell_problem(request, http_problem(error.status_code, error.headers))


_HANDLERS: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
    ProblemError: _tell_problem,
    HTTPException: _tell_http,
    Exception: _tell_problem,
}


def _loading() -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "ui-loading",
        "the Dagster UI is still loading",
        remedy="ask again in a few seconds",
        headers={"retry-after": "2"},
    )


def _failed() -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "ui-failed",
        "the Dagster UI could not be loaded",
        remedy="the reason is in logs/dagster.log; webhooks and metrics are served all the same",
    )


def _off() -> ProblemError:
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "ui-off",
        "the Dagster UI is not served here",
        remedy="start `maestro dev` without --no-ui",
    )


_UI_PROBLEMS: dict[UiState, Callable[[], ProblemError]] = {
    "loading": _loading,
    "failed": _failed,
    "off": _off,
}
