"""The server on a free port, in this process, with a real inbox; what it calls can be made to fail."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from maestro_dagster.api.app import build_app
from maestro_dagster.api.process import configure, listen
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.project.backend import Backend

if "api_support" not in sys.modules:  # importlib mode has no packages
    spec = importlib.util.spec_from_file_location("api_support", Path(__file__).with_name("support.py"))
    assert spec
    assert spec.loader
    sys.modules["api_support"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["api_support"])

from api_support import SECRET, Served


class Port:
    """One server for all tests, which takes a second to come and go; each has an application of its own."""

    def __init__(self) -> None:
        self.app: Any = None
        listener = listen("127.0.0.1", 0)
        self.number = int(listener.getsockname()[1])
        self.server = uvicorn.Server(configure(self))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def port() -> Iterator[Port]:
    found = Port()
    yield found
    found.server.should_exit = True
    found.thread.join(20)


@pytest.fixture
def served(tmp_path: Path, port: Port) -> Iterator[Served]:
    inbox = Inbox(tmp_path / "inbox", tmp_path / "inbox" / "inbox.sqlite")
    found = Served(inbox, tmp_path / "access.ndjson", port.number)
    backend = Backend(
        receive=found.receive,
        accept=found.accept,
        metrics=found.metrics,
        checks=lambda: {"deliveries": found.ready, "inbox": False, "loop": True},
        log=found.log,
        hide=lambda text: text.replace(SECRET, "***"),
        hosts=("ci.example",),
    )
    port.app = build_app(backend, found.slot)
    yield found
    inbox.close()
