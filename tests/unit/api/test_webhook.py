"""Deliveries are taken in when they are on the disk; whatever else happens is a problem with a code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import pytest
from api_support import SECRET, Served, talk
from starlette.requests import Request
from starlette.types import Message

from maestro_dagster.api import body, connection, webhook
from maestro_dagster.api.problem import ProblemError
from maestro_dagster.errors import DatabaseError, EventError

HEAD = f"POST /webhooks/shop HTTP/1.1\r\nhost: 127.0.0.1\r\nx-signature: {SECRET}\r\n".encode()


def stored(served: Served) -> list[str]:
    """What another connection sees: it is committed."""
    with contextlib.closing(sqlite3.connect(served.log.parent / "inbox" / "inbox.sqlite")) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM event ORDER BY sequence")]


def test_a_delivery_is_on_the_disk_when_202_comes(served: Served) -> None:
    answer = served.push(("event-0001", "refs/heads/main"), ("event-0002", "refs/tags/v1"))
    assert answer.status == HTTPStatus.ACCEPTED
    assert stored(served) == ["event-0001", "event-0002"]
    assert answer.form["delivery"] == "delivery-1"
    assert [(one["id"], one["kind"], one["new"]) for one in answer.form["events"]] == [
        ("event-0001", "push", True),
        ("event-0002", "tag", True),
    ]


def test_a_second_time_changes_nothing_and_says_so(served: Served) -> None:
    served.push(("event-0001", "refs/heads/main"))
    answer = served.push(("event-0001", "refs/heads/other"))
    assert answer.status == HTTPStatus.ACCEPTED
    assert [one["new"] for one in answer.form["events"]] == [False]
    assert served.inbox.recent()[0].ref == "refs/heads/main"


def test_many_at_once_share_writes_and_each_hears_of_its_own(served: Served) -> None:
    gathered = threading.Event()
    served.pause = lambda: gathered.wait(20)  # the first write waits until others have gathered

    def send(number: int) -> list[bool]:
        answer = served.push((f"event-{number:04}", "refs/heads/main"), ("event-same", "refs/heads/main"))
        assert answer.status == HTTPStatus.ACCEPTED
        return [one["new"] for one in answer.form["events"]]

    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(send, number) for number in range(40)]
        time.sleep(0.5)
        gathered.set()
        found = [future.result() for future in futures]
    assert all(first for first, _ in found)
    assert [second for _, second in found].count(True) == 1
    assert len(stored(served)) == 41
    assert len(served.batches) < 20


def test_an_event_that_is_refused_costs_the_others_nothing(served: Served) -> None:
    gathered = threading.Event()
    served.pause = lambda: gathered.wait(20)
    rows = [("event-0001", "refs/heads/main"), ("event-0002", "no ref"), ("event-0003", "refs/heads/main")]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(served.push, ("event-0000", "refs/heads/main"))
        time.sleep(0.2)
        futures = [pool.submit(served.push, row) for row in rows]
        time.sleep(0.5)
        gathered.set()
        found = [future.result().status for future in futures]
        assert first.result().status == HTTPStatus.ACCEPTED
    assert found == [202, 400, 202]
    assert set(stored(served)) == {"event-0000", "event-0001", "event-0003"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatabaseError("cannot reach 10.1.2.3", place="/home/x", code="database-unreachable"), "database-un"),
        (EventError("the inbox cannot be used", place="/home/x", code="inbox-unusable"), "inbox-unusable"),
    ],
)
def test_what_is_our_fault_asks_the_forge_to_come_again(served: Served, error: Exception, code: str) -> None:
    served.broken = error
    answer = served.push(("event-0001", "refs/heads/main"))
    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.headers["retry-after"] == "5"
    assert answer.form["code"].startswith(code)
    assert b"/home/x" not in answer.body
    assert "/home/x" in served.lines()[-1]["error"]  # the operator is told
    served.broken = None
    assert served.push(("event-0001", "refs/heads/main")).form["events"][0]["new"]


def test_what_nobody_thought_of_is_a_problem_too(served: Served) -> None:
    served.broken = RuntimeError(f"secret {SECRET} in a message")
    answer = served.push(("event-0001", "refs/heads/main"))
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.form["code"] == "internal"
    assert SECRET.encode() not in answer.body
    line = served.lines()[-1]
    assert "RuntimeError" in line["error"]
    assert SECRET not in served.log.read_text()
    assert line["trace_id"] == answer.form["traceId"]


def test_refusals(served: Served) -> None:
    unknown = served.push(("event-0001", "refs/heads/main"), name="other")
    assert (unknown.status, unknown.form["code"]) == (404, "webhook-unknown")
    forged = served.push(("event-0001", "refs/heads/main"), **{"x-signature": "x"})
    assert (forged.status, forged.form["code"]) == (401, "webhook-signature")
    assert forged.form["title"] == "Unauthorized"
    assert forged.form["detail"] == "the signature is not that of ***"
    assert forged.form["instance"] == "/webhooks/shop"
    assert stored(served) == []


def test_a_kind_that_is_not_known_is_taken_and_told(served: Served) -> None:
    answer = served.call("POST", "/webhooks/shop", b"unsupported", {"x-signature": SECRET})
    assert answer.status == HTTPStatus.ACCEPTED
    assert answer.form["ignored"] == "the kind `star` is not known"
    assert answer.form["events"] == []


def test_no_reply_says_a_secret_back(served: Served) -> None:
    """Forges keep replies, and show them."""
    answer = served.push(("event-0001", f"refs/heads/{SECRET}"))
    assert [event["ref"] for event in answer.form["events"]] == ["refs/heads/***"]
    assert [event.ref for event in served.inbox.recent()] == [f"refs/heads/{SECRET}"], "taken in as it came"
    for method, path in (
        ("POST", f"/webhooks/{SECRET}"),
        ("GET", f"/{SECRET}/x"),
        ("GET", f"/webhooks/{SECRET}"),
    ):
        answer = served.call(method, path, b"[]" if method == "POST" else None, {})
        assert answer.form["instance"] == path.replace(SECRET, "***")
        assert SECRET.encode() not in answer.body


def test_a_second_signature_hides_no_first(served: Served) -> None:
    head = HEAD + b"x-signature: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]"
    assert b" 401 " in talk(served.port, head).splitlines()[0]


def test_the_trace_is_that_of_the_caller(served: Served) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = served.push(traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert given.form["traceId"] == trace
    for wrong in ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", f"ff-{trace}-00f067aa0ba902b7-01", "x" * 55):
        own = served.push(traceparent=wrong).form["traceId"]
        assert len(own) == 32
        assert own not in (trace, "0" * 32)


def test_only_post(served: Served) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = served.call(method, "/webhooks/shop")
        assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
        assert answer.form["code"] == "method-not-allowed"
        assert answer.headers["allow"] == "POST"


def test_a_body_that_says_it_is_too_large_is_not_read(served: Served) -> None:
    reply = talk(served.port, HEAD + b"content-length: %d\r\n\r\n" % (webhook.BODY_BYTES + 1))
    assert b" 413 " in reply.splitlines()[0]
    assert b"body-too-large" in reply


def test_a_body_that_grows_too_large_is_given_up(served: Served) -> None:
    chunk = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    reply = _send_until_closed(served.port, head, chunk, webhook.BODY_BYTES // 0xFFFF + 20)
    assert b" 413 " in reply.splitlines()[0]


def _send_until_closed(port: int, head: bytes, chunk: bytes, times: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(head)
        try:
            for _ in range(times):
                peer.sendall(chunk)
        except OSError:
            pass
        try:
            return peer.recv(65536)
        except OSError:
            pytest.fail("the connection was reset before the answer came")


def test_a_compressed_body_is_refused(served: Served) -> None:
    answer = served.push(("event-0001", "refs/heads/main"), **{"content-encoding": "gzip"})
    assert (answer.status, answer.form["code"]) == (415, "body-encoded")


def test_a_slow_body_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhook.BODY_SECONDS <= 15
    monkeypatch.setattr(body.BodyReader, "read", _hasty(body.BodyReader.read))
    reply = talk(served.port, HEAD + b"content-length: 100\r\n\r\n[")
    assert b" 408 " in reply.splitlines()[0]
    assert b"body-slow" in reply
    assert served.push(("event-0001", "refs/heads/main")).status == HTTPStatus.ACCEPTED


def _hasty(read):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    async def read_soon(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        self._seconds = 0.3
        return await read(self, request)

    return read_soon


def test_bodies_that_are_too_many_at_once_come_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def crowd(read):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        async def read_crowded(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            self._total = 10
            return await read(self, request)

        return read_crowded

    with monkeypatch.context() as patch:
        patch.setattr(body.BodyReader, "read", crowd(body.BodyReader.read))
        answer = served.push(("event-0001", "refs/heads/main"))
        assert (answer.status, answer.form["code"]) == (503, "body-crowded")
        small = served.call("POST", "/webhooks/shop", b"[]", {"x-signature": SECRET})
        assert small.status == HTTPStatus.ACCEPTED  # what was held is given back


def test_bodies_that_wait_to_be_worked_on_are_limited_too() -> None:
    async def act() -> None:
        reader = body.BodyReader(100, 5.0, total=100)
        async with reader.hold(make_request(60)) as first:
            assert len(first) == 60
            with pytest.raises(ProblemError, match="too many large bodies"):
                await reader.read(make_request(60))
            async with reader.hold(make_request(40)):
                pass
        async with reader.hold(make_request(100)):
            pass
        assert reader._held == 0

    asyncio.run(act())


def test_a_delivery_is_held_until_it_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    readers: list[body.BodyReader] = []
    hold = body.BodyReader.hold

    def note(self: body.BodyReader, request: Request) -> AbstractAsyncContextManager[bytes]:
        readers.append(self)
        return hold(self, request)

    monkeypatch.setattr(body.BodyReader, "hold", note)
    served.pause = lambda: held.append(readers[-1]._held)
    assert served.push(("event-0001", "refs/heads/main")).status == HTTPStatus.ACCEPTED
    assert held == [len(json.dumps([["event-0001", "refs/heads/main"]]))]
    assert readers[-1]._held == 0


def make_request(size: int) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"a" * size, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_a_connection_that_ends_within_the_body_loses_nobody_else(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer:
        peer.sendall(HEAD + b"content-length: 100\r\n\r\n[")
    assert served.push(("event-0001", "refs/heads/main")).status == HTTPStatus.ACCEPTED
    assert stored(served) == ["event-0001"]


def test_a_head_that_does_not_end_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    assert talk(served.port, b"POST /webhooks/shop HTTP/1.1\r\nhost: 127") == b""


def read_problem(reply: bytes) -> tuple[int, str]:
    """Status and code."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json\r\n" in head + b"\r\n"
    assert f"content-length: {len(body)}".encode() in head
    form = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {form['status']} {form['title']}\r\n".encode())
    return form["status"], form["code"]


def test_a_head_that_grows_too_large_is_refused(served: Served) -> None:
    reply = talk(served.port, HEAD + b"x: " + b"a" * (connection.HEAD_BYTES + 1))
    assert read_problem(reply) == (431, "head-too-large")
    assert served.push(("event-0001", "refs/heads/main")).status == HTTPStatus.ACCEPTED


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", HEAD + b"content-length: x\r\n\r\n"],
    ids=["TLS", "version", "length"],
)
def test_what_is_no_http_is_a_problem_too(served: Served, data: bytes) -> None:
    assert read_problem(talk(served.port, data)) == (400, "http-broken")


def test_a_crowd_is_refused_with_a_problem(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = connection.PatientProtocol.__init__

    def limited(self: connection.PatientProtocol, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._most = 2

    monkeypatch.setattr(connection.PatientProtocol, "__init__", limited)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
        answer = served.call("GET", "/healthz")
        assert (answer.status, answer.form["code"]) == (503, "server-crowded")


def is_ended(peer: socket.socket, seconds: float = 5.0) -> bool:
    """Whether the server ends the connection, after whatever it still has to say."""
    peer.settimeout(seconds)
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("more", [b"\r\n", b"a"], ids=["empty line", "rest of a body"])
def test_a_connection_is_not_kept_for_what_comes_after_its_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    size = b"content-length: 1000\r\n" if more == b"a" else b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n" + size + b"\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
        peer.sendall(more)
        assert is_ended(peer)


@pytest.mark.parametrize("path", [b"GET /healthz", b"POST /webhooks/shop"])
def test_fields_behind_a_body_are_as_limited_as_a_head(served: Served, path: bytes) -> None:
    field = b"x: " + b"a" * 4000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer:
        peer.sendall(path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 100 * connection.HEAD_BYTES:
                peer.sendall(field)
                sent += len(field)
        assert sent < 100 * connection.HEAD_BYTES
        assert is_ended(peer)
    assert served.push(("event-0001", "refs/heads/main")).status == HTTPStatus.ACCEPTED


def test_a_connection_is_kept_for_one_request_after_another(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer:
        for _ in range(3):
            peer.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.4)
