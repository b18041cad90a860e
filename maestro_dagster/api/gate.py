"""Who may ask what, before anything is read.

The server has no users of its own yet: it listens on loopback, and a browser on the same machine is the one
way in for a stranger. So a request must name a host that cannot have been rebound to us by somebody else's
DNS, and what changes something must come from our own pages: no GET, no foreign Origin, no form.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from maestro_dagster.api.problem import ProblemError, make_problem, note_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

UI = "/dagster"
GRAPHQL = f"{UI}/graphql"
# Signed by whom they come from, or telling nothing: reachable by whatever name a forge or a probe uses.
_OPEN = ("/webhooks/", "/healthz", "/readyz")
_SAFE = frozenset({"GET", "HEAD"})
_OWN_SITES = frozenset({"same-origin", "none"})
_PORTS = {"http": 80, "https": 443}
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class Gate:
    """Args: `hosts` are names besides loopback names and addresses by which the server may be called."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().removesuffix(".") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ProblemError as error:
            note_error(scope, error)
            if scope["type"] == "websocket":  # before it is accepted: the handshake ends with 403
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            else:
                await make_problem(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        path = scope["path"]
        if any(letter < " " or letter == "\x7f" for letter in path):
            # `$` in a pattern of routes also matches before a newline, so there are two names for one page.
            raise ProblemError(HTTPStatus.NOT_FOUND, "not-found", "there is nothing here")
        if not path.startswith(_OPEN):
            self._check_host(headers)
        if path == UI or path.startswith(f"{UI}/"):
            _check_ui(scope, headers, path)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if not (name in self._hosts or _cannot_be_rebound(name)):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "host-unknown",
                "the server is not known by this name",
                remedy="add it to the setting server_hosts",
            )


def _check_ui(scope: Scope, headers: Headers, path: str) -> None:
    if scope["type"] == "websocket":
        if path != GRAPHQL or "origin" not in headers or not _is_own(headers):
            raise _foreign()
        return
    if scope["method"] in _SAFE:
        if path == GRAPHQL:  # Dagster would run a mutation that a GET asks for
            raise _not_allowed("POST")
        return
    if scope["method"] != "POST":
        raise _not_allowed("GET, POST")
    if not _is_own(headers):
        raise _foreign()
    kinds = headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].split(";")[0].strip().lower() != "application/json":
        # The kinds that a form of another page may send need no permission of ours (Fetch, CORS).
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "the body is not declared as JSON",
            remedy="send it with Content-Type: application/json",
        )


def _is_own(headers: Headers) -> bool:
    """From a page of ours, or from no browser at all."""
    origins = headers.getlist("origin")
    if not origins:
        return headers.get("sec-fetch-site", "none").lower() in _OWN_SITES
    if len(origins) > 1:
        return False
    try:
        origin = urlsplit(origins[0])
    except ValueError:
        return False
    port = _PORTS.get(origin.scheme)
    if port is None:
        return False
    # Who asks need not name the usual port, and a proxy does not say which of the two it was asked by.
    place = _read_host(origin.netloc, port)
    return place is not None and place == _read_host(headers.get("host", ""), port)


def _host_name(host: str) -> str:
    """Without the port: `localhost`, `127.0.0.1`, `::1`; "" for what is no host."""
    place = _read_host(host, 0)
    return "" if place is None else place[0]


def _read_host(host: str, port: int) -> tuple[str, int] | None:
    """Name and port, `port` where none is named. A dot at the end makes no other name (RFC 1034, 3.1)."""
    try:
        parts = urlsplit(f"//{host}")
        found = parts.port
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.lower().removesuffix("."), port if found is None else found


def _cannot_be_rebound(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3: never asked of the DNS
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _foreign() -> ProblemError:
    return ProblemError(
        HTTPStatus.FORBIDDEN,
        "origin-foreign",
        "the request comes from another page",
        remedy="send it from a page of this server, or from no browser",
    )


def _not_allowed(methods: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this is not asked for in this way",
        remedy=f"use {methods}",
        headers={"allow": methods},
    )
