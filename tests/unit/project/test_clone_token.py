"""To whom the token of a forge goes when its repository is fetched."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.mirror import make_credential
from maestro_dagster.project.intake import open_mirrors
from maestro_dagster.project.root import open_project

TOKEN = "tok-0123456789-abcdef"


class Listener:
    """A server that is asked for a repository, has none, and notes with which credential it was asked."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = self.headers["authorization"]
                outer.heard += [told] if told else []
                self.send_response(404 if told else 401)
                self.send_header("www-authenticate", 'Basic realm="forge"')
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def fetch(root: Path, listener: Listener, **fields: str) -> str:
    """The code of what came of it."""
    clone = f"http://127.0.0.1:{listener.port}/acme/shop.git"
    row = {"name": "shop", "forge": "gitea", "repository": "acme/shop", "clone": clone, "secrets": ["A"],
           "token": "SHOP_TOKEN", **fields}  # fmt: skip
    (root / "resources").mkdir(exist_ok=True)
    (root / "resources" / "forges.yaml").write_text(json.dumps({"repositories": [row]}))
    secret = root / ".maestro" / "secrets" / "SHOP_TOKEN"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.touch(0o600)
    secret.write_text(TOKEN)
    event = RepositoryEvent(
        "event-0001", clone, "a" * 40, "b" * 40, "refs/heads/main", 1.0, "webhook", "shop"
    )
    with pytest.raises(EventError) as caught:
        open_mirrors(open_project(root, {}), wait=True).find(event)
    assert TOKEN not in str(caught.value)
    return caught.value.error_code


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_the_host_of_the_api_gets_the_token(root: Path, listener: Listener) -> None:
    fetch(root, listener, api=f"http://127.0.0.1:{listener.port}/api/v1")
    assert set(listener.heard) == {make_credential("gitea", TOKEN)}


@pytest.mark.parametrize("api", ["http://127.0.0.1:1/api/v1", "https://git.example/api/v1", None])
def test_another_host_gets_none(root: Path, listener: Listener, api: str | None) -> None:
    code = fetch(root, listener, **({"api": api} if api else {}))
    assert (listener.heard, code) == ([], "mirror-denied")


def test_another_host_is_asked_with_what_the_user_has_for_it(
    root: Path, listener: Listener, tmp_path: Path
) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.touch(0o600)
    netrc.write_text("machine 127.0.0.1 login ada password hers\n")
    fetch(root, listener, api="https://git.example/api/v1")
    assert set(listener.heard) == {f"Basic {base64.b64encode(b'ada:hers').decode()}"}
