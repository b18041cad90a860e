"""`POST /webhooks/{name}`: 202 when the events of a delivery are on the disk, never before.

    202 {"delivery": "<id>", "events": [{"id", "kind", "ref", "new"}], "ignored": null}

`new` is false for what came before: a delivery that is sent again changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from maestro_dagster.api.accept import Acceptor
from maestro_dagster.api.body import BodyReader
from maestro_dagster.api.problem import ProblemError, hider, trace_id
from maestro_dagster.errors import MaestroError
from maestro_dagster.project.backend import Backend

BODY_BYTES = 25 * 1024 * 1024  # the largest that a forge of ours sends
BODY_SECONDS = 10.0
_STATUS = {
    "event-malformed": HTTPStatus.BAD_REQUEST,
    "webhook-malformed": HTTPStatus.BAD_REQUEST,
    "webhook-unsigned": HTTPStatus.UNAUTHORIZED,
    "webhook-signature": HTTPStatus.UNAUTHORIZED,
    "webhook-stale": HTTPStatus.UNAUTHORIZED,
    "webhook-other-repository": HTTPStatus.FORBIDDEN,
    "webhook-unknown": HTTPStatus.NOT_FOUND,
    "webhook-too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


def webhook_endpoint(backend: Backend) -> Callable[[Request], Awaitable[Response]]:
    acceptor = Acceptor(backend.accept)
    reader = BodyReader(BODY_BYTES, BODY_SECONDS)

    async def receive_webhook(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            async with reader.hold(request) as body:
                delivery = await run_in_threadpool(backend.receive, name, _headers(request), body)
                new = await acceptor.accept(delivery.events)
        except MaestroError as error:
            if error.error_code == "webhook-unsupported":
                return _accepted(request, None, [], ignored=error.fact)
            raise _refusal(error) from error
        events = [
            {"id": event.event_id, "kind": event.kind, "ref": event.ref, "new": fresh}
            for event, fresh in zip(delivery.events, new, strict=True)
        ]
        return _accepted(request, delivery.delivery_id, events)

    return receive_webhook


def _headers(request: Request) -> dict[str, str]:
    """In lower case; what came twice is joined (RFC 9110, 5.3), so that a second signature hides no first."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _accepted(
    request: Request, delivery: str | None, events: list[dict[str, object]], ignored: str | None = None
) -> Response:
    hide = hider(request.scope)  # the sender chooses the delivery's number and the ref
    form = {
        "delivery": delivery and hide(delivery),
        "events": [{**event, "ref": hide(str(event["ref"]))} for event in events],
        "ignored": ignored and hide(ignored),
        "traceId": trace_id(request.scope),
    }
    return JSONResponse(form, HTTPStatus.ACCEPTED, {"cache-control": "no-store"})


def _refusal(error: MaestroError) -> ProblemError:
    status = _STATUS.get(error.error_code)
    if status is None:  # our fault: the forge is asked to come again, and learns nothing of our disk
        return ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            error.error_code,
            "the delivery cannot be taken in now; nothing of it was kept",
            remedy="send it again; the operator finds the reason in the server's log",
            headers={"retry-after": "5"},
        )
    return ProblemError(status, error.error_code, error.fact, remedy=error.remedy)
