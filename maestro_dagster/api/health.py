"""`/healthz`: the process answers. `/readyz`: it can take in deliveries, and the loop works on them.

`loop` is false while the loop starts and once it stops: it takes no work then.

{"ready": true, "checks": {"deliveries": true, "forges": true, "inbox": true, "loop": true}, "ui": "ready"}
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from maestro_dagster.project.backend import Backend

_HEADERS = {"cache-control": "no-store"}
_FRESH_SECONDS = 1.0  # a look writes to the disk, and whoever asks need not say who it is


async def tell_health(_: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers=_HEADERS)


def ready_endpoint(backend: Backend, ui: Callable[[], str]) -> Callable[[Request], Awaitable[Response]]:
    """`ui` gives `ready`, `loading`, `failed` or `off`; without it deliveries are taken in all the same.

    Who asks while somebody else's look goes on, or soon after it, gets what that finds: it may last
    seconds, and the threads are those of the deliveries.
    """
    look: asyncio.Task[Mapping[str, bool]] | None = None
    begun = 0.0

    async def tell_ready(_: Request) -> Response:
        nonlocal look, begun
        if look is None or (look.done() and time.monotonic() - begun >= _FRESH_SECONDS):
            look, begun = asyncio.create_task(run_in_threadpool(backend.checks)), time.monotonic()
        checks = dict(await asyncio.shield(look))
        ready = all(held for name, held in checks.items() if name != "inbox")
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"ready": ready, "checks": checks, "ui": ui()}, status, _HEADERS)

    return tell_ready
