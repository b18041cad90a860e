"""PostgreSQL goes away and comes back: every delivery that was taken in is in the inbox, once."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from maestro_dagster.events import late
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.project import backend
from maestro_dagster.project.backend import open_backend
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project


class Wire:
    """Between the project and its PostgreSQL; it can be cut."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self.is_cut = True
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listener.close()
        for one in self._pairs:
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._path)
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)


def make(number: int) -> RepositoryEvent:
    return RepositoryEvent(
        f"event-{number:04}", "/x.git", "0" * 40, "a" * 40, "refs/heads/main", 1e9, "webhook"
    )


def test_nothing_is_lost_while_postgres_is_away(
    tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    folder = parse_qs(urlsplit(url).query)["host"][0]
    (path,) = Path(folder).glob(".s.PGSQL.*[0-9]")
    wire = Wire(str(path))
    name = re.search(r"/(test_\w+)\?", url)
    assert name
    user = urlsplit(url).username or "postgres"
    there = f"postgresql://{user}@127.0.0.1:{wire.port}/{name[1]}"
    monkeypatch.setenv("MAESTRO_DATABASE", there)
    monkeypatch.setattr(backend, "_CHECK_SECONDS", 0.5)
    monkeypatch.setattr(backend, "_LATE_SECONDS", 0.1)
    monkeypatch.setattr(late, "PATIENCE", 0.5)
    monkeypatch.setattr(late.LateEvents.__init__, "__defaults__", (0.5,))
    init_project(tmp_path / "shop")
    project = open_project(tmp_path / "shop")
    found = open_backend(project)
    assert list(found.accept([make(0)])) == [True]
    wire.cut()
    for number in range(1, 20):
        assert list(found.accept([make(number)])) == [True]
    assert found.checks() == {"deliveries": True, "forges": True, "inbox": False, "loop": False}
    again = open_backend(project)  # a server that is started while the database is away
    assert list(again.accept([make(20)])) == [True]
    wire.is_cut = False
    end = time.monotonic() + 60
    while list((project.inbox / "late").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.1)
    inbox = open_inbox(project)
    assert [event.event_id for event in inbox.pending()] == [f"event-{number:04}" for number in range(21)]
    inbox.close()
    wire.close()
