"""A forge on this machine: its real protocol over a real socket, with the failures that forges have.

What it answers follows the published interfaces (docs.github.com/rest, docs.gitlab.com/api, the REST pages of
developer.atlassian.com, the Swagger of Gitea, learn.microsoft.com/rest/api/azure/devops).
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SHA = "a" * 40  # the one commit that a forge has, unless it is told to take any
TOKEN = "tok-0123456789-abcdef"


@dataclass(frozen=True)
class Asked:
    method: str
    path: str  # decoded
    raw: str  # as it stood in the request
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


Rule = Callable[..., Answer]
Fault = Callable[["ForgeServer", Callable[[], Answer]], "Answer | None"]


def fails(status: int, data: Any = None, **headers: str) -> Fault:
    """An answer in place of the act."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _server, _act: Answer(status, data or {"message": f"failure {status}"}, told)


def hangs_up(_server: ForgeServer, _act: Callable[[], Answer]) -> None:
    """The connection ends before anything was done."""


def hangs_up_after(_server: ForgeServer, act: Callable[[], Answer]) -> None:
    """It was done, and nobody hears of it."""
    act()


def stalls(server: ForgeServer, _act: Callable[[], Answer]) -> None:
    server.stopping.wait(5)


def stalls_after(server: ForgeServer, act: Callable[[], Answer]) -> None:
    act()
    server.stopping.wait(5)


def shows_page(_server: ForgeServer, _act: Callable[[], Answer]) -> Answer:
    """A proxy's page, as a success."""
    return Answer(200, text="<html><body>please sign in</body></html>")


class ForgeServer:
    """`rules` are (method, pattern of the path, rule); the rule gets Asked and the groups of the pattern."""

    prefix = ""

    def __init__(self) -> None:
        self.calls: list[Asked] = []
        self.faults: deque[Fault | None] = deque()
        self.statuses: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.repository = "acme/shop"
        self.any_commit = False
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.rules: list[tuple[str, re.Pattern[str], Rule]] = []
        self.last = 100
        self.url = ""

    @property
    def api(self) -> str:
        return f"{self.url}{self.prefix}"

    def add(self, method: str, pattern: str, rule: Rule) -> None:
        self.rules.append((method, re.compile(self.prefix + pattern), rule))

    def next_id(self) -> int:
        self.last += 1
        return self.last

    def authorised(self, asked: Asked) -> bool:
        raise NotImplementedError

    def refused(self) -> Answer:
        return Answer(401, {"message": "Bad credentials"})

    def act(self, asked: Asked) -> Answer:
        if not self.authorised(asked):
            return self.refused()
        for method, pattern, rule in self.rules:
            if asked.method == method and (found := pattern.fullmatch(asked.path)):
                return rule(asked, *found.groups())
        return Answer(404, {"message": "Not Found"})

    def answer(self, asked: Asked) -> Answer | None:
        with self.lock:
            self.calls.append(asked)
            fault = self.faults.popleft() if self.faults else None
        if fault is None:
            with self.lock:
                return self.act(asked)
        return fault(self, lambda: self.act(asked))

    def writes(self) -> list[Asked]:
        return [asked for asked in self.calls if asked.method != "GET"]

    @contextmanager
    def serve(self) -> Iterator[ForgeServer]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else an answer in two pieces takes 40 ms
            wbufsize = -1

            def handle_one(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("content-length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length) if length else read_chunks(self) if headers.get(
                    "transfer-encoding") == "chunked" else b""  # fmt: skip
                asked = Asked(
                    self.command, unquote(parts.path), parts.path, dict(parse_qsl(parts.query)), headers, body
                )
                answer = outer.answer(asked)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                raw = b"" if answer.status == 204 else json.dumps(answer.data).encode()
                if answer.text is not None:
                    raw = answer.text.encode()
                self.send_response(answer.status)
                kind = "text/html" if answer.text is not None else "application/json"
                told = {"content-type": kind, "content-length": str(len(raw)), **answer.headers}
                for name, value in told.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 - of the base class

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            server.shutdown()
            server.server_close()
            thread.join()


def read_chunks(handler: BaseHTTPRequestHandler) -> bytes:
    data = b""
    while size := int(handler.rfile.readline().strip() or b"0", 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return data


def read_form(asked: Asked, name: str) -> tuple[str, bytes]:
    """File name and content of a field of multipart/form-data."""
    boundary = re.search(r"boundary=([^;]+)", asked.headers["content-type"])
    assert boundary is not None
    for part in asked.body.split(b"--" + boundary.group(1).encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        told = head.decode(errors="replace")
        if f'name="{name}"' in told:
            file = re.search(r'filename="([^"]+)"', told)
            assert file is not None
            return file.group(1), content.removesuffix(b"\r\n")
    raise AssertionError(f"no field {name}")


def page_of(rows: list[Any], asked: Asked, default: int = 30, most: int = 100) -> list[Any]:
    size = min(int(asked.query.get("per_page", default)), most)
    start = (int(asked.query.get("page", 1)) - 1) * size
    return rows[start : start + size]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
