"""`/metrics` answers in time when the database has gone without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.metric import open_metrics
from maestro_dagster.project.root import find_project
from maestro_dagster.project.scaffold import init_project


class Line:
    """A way to a server that can fall silent: what is sent goes nowhere, and nobody says so."""

    def __init__(self, target: str) -> None:
        self.silent = threading.Event()
        self.target = target
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.target)
            self.sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                if not self.silent.is_set():
                    other.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for each in (self.server, *self.sockets):
            each.close()


@pytest.mark.parametrize("way", ["silent from the start", "silent later"])
def test_a_database_that_vanished_holds_up_no_scrape(
    tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    url = urlsplit(new_database())
    folder = parse_qs(url.query)["host"][0]
    line = Line(f"{folder}/.s.PGSQL.5432")
    monkeypatch.setenv("MAESTRO_DATABASE", f"postgresql://postgres@127.0.0.1:{line.port}{url.path}")
    project = find_project(init_project(tmp_path / "shop").root)
    inbox = open_inbox(project)
    try:
        metrics = open_metrics(project, inbox)
        if way == "silent later":
            assert b'maestro_source_up{source="events"} 1.0' in metrics.render()
        line.silent.set()
        for _ in range(2):
            start = time.monotonic()
            text = metrics.render()
            assert time.monotonic() - start < 5
            assert b'maestro_source_up{source="events"} 0.0' in text
            assert b'maestro_source_up{source="disk"} 1.0' in text
    finally:
        line.close()
