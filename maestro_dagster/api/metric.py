"""`/metrics`, for Prometheus. Scrapes that come at once share one reading of the records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from maestro_dagster.project.backend import Backend

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FRESH_SECONDS = 1.0  # a reading is good for so long


def metrics_endpoint(backend: Backend) -> Callable[[Request], Awaitable[Response]]:
    lock = asyncio.Lock()
    kept: tuple[float, bytes] = (-_FRESH_SECONDS, b"")

    async def tell_metrics(_: Request) -> Response:
        nonlocal kept
        async with lock:
            if time.monotonic() - kept[0] >= _FRESH_SECONDS:
                text = await run_in_threadpool(backend.metrics)
                kept = (time.monotonic(), text)
        return Response(kept[1], headers={"content-type": MEDIA_TYPE, "cache-control": "no-store"})

    return tell_metrics
