"""The server's process: answers at once, and loads the Dagster UI beside that."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from maestro_dagster.api.app import UiSlot, build_app
from maestro_dagster.api.connection import PatientProtocol
from maestro_dagster.project.backend import Backend
from maestro_dagster.telemetry.stream import hide_output

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_GRACE_SECONDS = 4  # that requests get to end; then the UI is closed, and after some more the keeper kills
_CLOSE_SECONDS = 3.0
_MESSAGE_BYTES = 1024 * 1024  # of one message of a websocket: a subscription's query
_CONNECTIONS = 1000
_KEEP_ALIVE_SECONDS = 20
_BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Whoever connects from now on waits for the answer, and is not turned away. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def serve(backend: Backend, listener: socket.socket, home: Path, workspace: Path | None) -> None:
    """Until SIGTERM or SIGINT; requests under way are answered. `workspace` is Dagster's; None: no UI."""
    with hide_output():  # what uvicorn and Dagster tell goes into logs/dagster.log
        slot = UiSlot(wanted=workspace is not None)
        server = uvicorn.Server(configure(build_app(backend, slot)))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises them again when it has stopped
        with _ui_beside(slot, home, workspace):
            asyncio.run(server.serve([listener]))


def configure(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="websockets-sansio",
        ws_max_size=_MESSAGE_BYTES,
        access_log=False,  # ours goes through the redactor
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # nothing here depends on who the caller says it is
        interface="asgi3",
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


@contextmanager
def _ui_beside(slot: UiSlot, home: Path, workspace: Path | None) -> Iterator[None]:
    """Fills the slot from another thread, which closes the UI when the block ends."""
    if workspace is None:
        yield
        return
    ended = threading.Event()

    def load() -> None:
        try:
            from maestro_dagster.api.server import open_ui

            with open_ui(home, workspace) as app:
                slot.app = app
                ended.wait()
                slot.app = None
        except Exception:  # noqa: BLE001 - webhooks are served all the same
            slot.app, slot.failed = None, True
            traceback.print_exc(file=sys.stderr)

    # A daemon: one that is still importing cannot be asked to stop.
    thread = threading.Thread(target=load, name="dagster-ui", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_CLOSE_SECONDS)
