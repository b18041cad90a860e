"""What the tests of the server share: a backend that can be made to fail, and a client."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maestro_dagster.api.app import UiSlot
from maestro_dagster.errors import EventError
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.webhook import Delivery

SECRET = "hunter2-hunter2"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """`receive` takes a body of JSON rows `[event_id, ref]`."""

    inbox: Inbox
    log: Path
    port: int = 0
    slot: UiSlot = field(default_factory=lambda: UiSlot(wanted=True))
    broken: Exception | None = None
    batches: list[int] = field(default_factory=list)
    ready: bool = True
    scrapes: int = 0
    pause: Callable[[], None] = lambda: None

    def receive(self, name: str, headers: Mapping[str, str], body: bytes) -> Delivery:
        if name != "shop":
            raise EventError("no repository of that name is known", code="webhook-unknown")
        if headers.get("x-signature") != SECRET:
            raise EventError(f"the signature is not that of {SECRET}", code="webhook-signature")
        if body == b"unsupported":
            raise EventError("the kind `star` is not known", code="webhook-unsupported")
        rows = json.loads(body)
        events = [
            RepositoryEvent(one, "/srv/shop.git", "0" * 40, "a" * 40, ref, time.time(), "webhook", "shop")
            for one, ref in rows
        ]
        return Delivery("delivery-1", "push", "acme/shop", tuple(events))

    def accept(self, events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        self.pause()
        if self.broken is not None:
            raise self.broken
        self.batches.append(len(events))
        return self.inbox.accept(events)

    def metrics(self) -> bytes:
        self.scrapes += 1
        return b"maestro_runs_total 3\n"

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            return Answer(
                reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
            )
        finally:
            connection.close()

    def push(self, *rows: tuple[str, str], name: str = "shop", **headers: str) -> Answer:
        return self.call(
            "POST",
            f"/webhooks/{name}",
            json.dumps(rows).encode(),
            {"content-type": "application/json", "x-signature": SECRET, **headers},
        )

    def lines(self, count: int = 1) -> list[dict[str, Any]]:
        """The access log, as soon as it has so many lines: they are written after the answer."""
        end = time.monotonic() + 20
        while True:
            text = self.log.read_text() if self.log.exists() else ""
            if text.count("\n") >= count or time.monotonic() > end:
                return [json.loads(line) for line in text.splitlines()]
            time.sleep(0.01)


def talk(port: int, data: bytes) -> bytes:
    """What comes back for raw bytes, until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)
