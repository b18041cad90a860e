"""Errors as Problem Details (RFC 9457), and the trace id that each reply of the server belongs to.

{"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": "...", "instance": "/webhooks/shop",
 "code": "webhook-signature", "remedy": "...", "traceId": "<32 hex>"}
"""

from __future__ import annotations

import json
import re
import secrets
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from maestro_dagster.errors import MaestroError

if TYPE_CHECKING:
    from starlette.types import Scope

MEDIA_TYPE = "application/problem+json"
TOLD = "maestro.told"  # in the request's state: what its line in the access log says besides
HIDE = "maestro.hide"  # and what every text of a reply of ours goes through
_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_HTTP_FACTS = {
    HTTPStatus.NOT_FOUND: ("not-found", "there is nothing here"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method-not-allowed", "this is not asked for in this way"),
}


class ProblemError(Exception):
    """A request that is refused. `headers` go into the reply; `remedy` says what the caller can do."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        fact: str,
        *,
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(fact)
        self.status = status
        self.code = code
        self.fact = fact
        self.remedy = remedy
        self.headers = dict(headers or {})


def make_problem(error: ProblemError, scope: Scope) -> Response:
    hide = hider(scope)
    form: dict[str, Any] = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": hide(error.fact),
        # Hidden too: a reply is kept by whoever called, where a forge shows it to all of its users.
        "instance": hide(scope.get("path", "")),
        "code": error.code,
        **({"remedy": hide(error.remedy)} if error.remedy else {}),
        "traceId": trace_id(scope),
    }
    return Response(
        json.dumps(form, ensure_ascii=False).encode(errors="replace"),
        error.status,
        {"cache-control": "no-store", "x-content-type-options": "nosniff", **error.headers},
        MEDIA_TYPE,
    )


def hider(scope: Scope) -> Callable[[str], str]:
    """What hides secrets in this server's replies."""
    found: Callable[[str], str] = scope.get("state", {}).get(HIDE, str)
    return found


def as_problem(error: Exception) -> ProblemError:
    """What the caller may know of any error."""
    if isinstance(error, ProblemError):
        return error
    return ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "the server failed",
        remedy="the operator finds the reason in logs/access.ndjson by the traceId",
    )


def http_problem(status: int, headers: Mapping[str, str] | None = None) -> ProblemError:
    """Of an error that has only a status."""
    try:
        known = HTTPStatus(status)
    except ValueError:
        known = HTTPStatus.INTERNAL_SERVER_ERROR
    if known == HTTPStatus.INTERNAL_SERVER_ERROR:
        return as_problem(Exception())
    code, fact = _HTTP_FACTS.get(known, ("http", known.phrase))
    return ProblemError(known, code, fact, headers=headers)


def note_error(scope: Scope, error: Exception) -> None:
    """For the access log: the code, and what the caller is not told."""
    told = {"code": as_problem(error).code}
    cause = error.__cause__ if isinstance(error, ProblemError) else error
    if cause is not None:
        known = isinstance(cause, MaestroError)
        told["error"] = str(cause) if known else "".join(traceback.format_exception(cause))
    scope.setdefault("state", {})[TOLD] = told


def trace_id(scope: Scope) -> str:
    """The trace of this request: the caller's (W3C Trace Context), else one of its own."""
    found = scope.setdefault("state", {})
    if "trace_id" not in found:
        found["trace_id"] = _read_trace(scope) or secrets.token_hex(16)
    return str(found["trace_id"])


def _read_trace(scope: Scope) -> str:
    values = [value for name, value in scope.get("headers", ()) if name == b"traceparent"]
    match = _TRACE_PARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or values[0].startswith(b"ff") or not match[1].strip(b"0"):
        return ""
    return match[1].decode()
