"""One line for each request, without query, addresses and secrets; and the last word on errors.

{"ts": 1767225600.123, "method": "POST", "path": "/webhooks/shop", "status": 202, "ms": 3.1, "bytes": 96,
 "trace_id": "..."}
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.api.problem import HIDE, TOLD, as_problem, make_problem, note_error, trace_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LARGEST = 16 * 1024 * 1024  # bytes; then the file is renamed to `.1`, whose predecessor goes
_LONGEST_PATH = 500
_QUIET = ("/dagster/", "/healthz", "/readyz", "/metrics")  # where only what goes wrong is worth a line
_SWITCHED = 101
_INTERNAL_ERROR = 1011  # RFC 6455, 7.4.1
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "(other)"
Observe = Callable[[str, str, int, float], None]


class AccessLog:
    """Appends whole lines. A disk that is full loses lines, never requests."""

    def __init__(self, path: Path, hide: Callable[[str], str]) -> None:
        self._path = path
        self.hide = hide

    def write(self, form: dict[str, Any]) -> None:
        text = self.hide(json.dumps(form, ensure_ascii=False))
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_size > _LARGEST:
                    self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            handle = os.open(self._path, flags, 0o600)
            try:
                os.write(handle, text.encode(errors="replace") + b"\n")
            finally:
                os.close(handle)


class Access:
    """The outermost layer: whatever is raised below becomes a problem, its traceback a part of the log."""

    def __init__(self, app: ASGIApp, log: AccessLog, observe: Observe = lambda *_: None) -> None:
        self._app = app
        self._log = log
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        seen = {"status": 0, "bytes": 0}

        async def watch(message: Message) -> None:
            _note(message, seen)
            await send(message)

        trace_id(scope)  # one for all that happens below
        scope["state"][HIDE] = self._log.hide
        try:
            await self._app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 - a server goes on
            await _answer(error, scope, receive, watch, answered=bool(seen["status"]))
        if scope["type"] == "http":
            seconds = time.perf_counter() - started
            self._observe(name_method(scope), name_route(scope["path"]), int(seen["status"]), seconds)
        told = scope["state"].get(TOLD, {})
        if told or not _is_quiet(scope, seen["status"]):
            self._log.write(_line(scope, seen, started) | told)


async def _answer(error: Exception, scope: Scope, receive: Receive, send: Send, *, answered: bool) -> None:
    note_error(scope, error)
    if answered:
        return
    if scope["type"] == "http":
        await make_problem(as_problem(error), scope)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": _INTERNAL_ERROR})


def _note(message: Message, seen: dict[str, int]) -> None:
    if message["type"] == "http.response.start":
        seen["status"] = message["status"]
    elif message["type"] == "http.response.body":
        seen["bytes"] += len(message.get("body", b""))
    elif message["type"] == "websocket.accept":
        seen["status"] = _SWITCHED
    elif message["type"] == "websocket.close" and not seen["status"]:
        seen["status"] = HTTPStatus.FORBIDDEN


def name_route(path: str) -> str:
    """The route's pattern: what somebody asks for is not what figures are kept by."""
    if path in {"/", "/healthz", "/readyz", "/metrics"}:
        return path
    if path == "/dagster" or path.startswith("/dagster/"):
        return "/dagster"
    return "/webhooks/{name}" if path.startswith("/webhooks/") else _OTHER


def name_method(scope: Scope) -> str:
    method = str(scope.get("method", ""))
    return method if method in _METHODS else _OTHER


def _is_quiet(scope: Scope, status: int) -> bool:
    return status < HTTPStatus.BAD_REQUEST and scope["path"].startswith(_QUIET)


def _line(scope: Scope, seen: dict[str, int], started: float) -> dict[str, Any]:
    return {
        "ts": round(time.time(), 3),
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"][:_LONGEST_PATH],
        "status": int(seen["status"]),
        "ms": round((time.perf_counter() - started) * 1000, 1),
        "bytes": seen["bytes"],
        "trace_id": trace_id(scope),
    }
