"""The process of the server: answers at once, lets requests end when it is stopped, gives the port back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from maestro_dagster.api.process import listen
from maestro_dagster.project.scaffold import init_project

SECRET = "made-up-0123456789abcdef"


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    home: Path

    def post(self, body: bytes, more: str = "") -> socket.socket:
        """A connection on which only a part of a delivery was sent."""
        head = f"POST /webhooks/shop HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        peer.sendall(head.encode() + body[:3])
        return peer


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    more: tuple[str, ...] = getattr(request, "param", ())
    init_project(tmp_path / "shop")
    forge = {"name": "shop", "forge": "github", "repository": "a/shop", "clone": "/x", "secrets": ["SHOP"]}
    (tmp_path / "shop" / "resources" / "forges.yaml").write_text(json.dumps({"repositories": [forge]}))
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAESTRO_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "maestro_dagster.api", "-p", str(port), *more],
        cwd=tmp_path / "shop",
        env={**clean, "MAESTRO_SECRET_SHOP": SECRET},
        stderr=subprocess.PIPE,
    )
    found = Running(process, port, tmp_path / "shop" / ".maestro")
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30).close()
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_it_loads_nothing_heavy_and_a_request_may_end_when_it_is_stopped(running: Running) -> None:
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "grpc" not in maps, "no Dagster without its UI"
    with running.post(b"{}" * 50) as peer:
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        peer.sendall((b"{}" * 50)[3:])
        reply = b"".join(iter(lambda: peer.recv(65536), b""))
    assert b" 401 " in reply.splitlines()[0]
    assert b"webhook-unsigned" in reply
    assert running.process.wait(30) == 0
    with listen("127.0.0.1", running.port):
        pass


def test_one_who_never_ends_is_not_waited_for(running: Running) -> None:
    with running.post(b"{}" * 50):
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0


@pytest.mark.parametrize("running", [("-w", f"{SECRET}.yaml")], indirect=True)
def test_what_it_prints_shows_no_secret(running: Running) -> None:
    """A UI that cannot be loaded says why, with all that the error quotes."""
    end = time.monotonic() + 60
    while b'"ui":"failed"' not in _ready(running.port):
        assert time.monotonic() < end
        time.sleep(0.1)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert running.process.stderr is not None
    said = running.process.stderr.read().decode()
    assert "Traceback" in said
    assert "***.yaml" in said
    assert SECRET not in said


def _ready(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        return error.read()


def test_a_port_that_is_taken(running: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maestro_dagster.api", "-p", str(running.port)],
        cwd=tmp_path / "shop",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"in use" in done.stderr
    assert b"Traceback" not in done.stderr
