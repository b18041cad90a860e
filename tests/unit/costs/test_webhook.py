"""Against a real server on this machine, which fails in the ways that servers fail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.costs.statement import ExportSource, ExportStatement
from maestro_dagster.costs.webhook import (
    Patience,
    check_url,
    message_id,
    record_delivery,
    send_export,
    sign_message,
)
from maestro_dagster.errors import CostError

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
STATEMENT = ExportStatement(
    "u.csv", "csv", "2026-03-01", "2026-03-01", 3, 3, 10, 1, 99, "sha256:" + "0" * 64,
    (ExportSource("2026-03-01", "sha256:" + "1" * 64),),
)  # fmt: skip
QUICK = Patience(attempts=5, timeout=0.5, first_wait=0.01, longest_wait=0.02, total=5.0)

Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"content-length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, so that no single read takes long."""
    try:
        for letter in b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100:
            handler.connection.sendall(bytes([letter]))
            time.sleep(0.05)
    except OSError:
        pass
    handler.close_connection = True


def babble(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.sendall(b"not http at all\r\n\r\n")
    handler.close_connection = True


class Receiver:
    """Gives the answers in turn, the last one for ever; keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [status(204)]
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.times: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                outer.times.append(time.monotonic())
                turn = min(len(outer.got), len(outer.answers)) - 1
                outer.answers[turn](self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=secret-in-the-query"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_the_message_is_signed_as_the_specification_says(receiver: Receiver) -> None:
    told = send_export(
        receiver.url, STATEMENT, SECRET, bundle=b'{"a":1}', attachment=b"x,y\n", patience=QUICK
    )
    assert (told.delivered, told.attempts, told.status) == (True, 1, 204)
    headers, body = receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"0123456789abcdef01234567", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    value = json.loads(body)
    assert value["type"] == "maestro.cost-export.v1"
    assert value["data"]["statement"] == STATEMENT.to_json()
    assert value["data"]["bundle"] == {"a": 1}
    assert base64.b64decode(value["data"]["file"]["base64"]) == b"x,y\n"


def test_a_published_example_of_the_specification_verifies() -> None:
    """Standard Webhooks, the worked example of the signature scheme."""
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    body = b'{"event_type":"ping","data":{"success":true}}'
    assert (
        sign_message(secret, "msg_loFOjxBNrRLzqYUf", 1731705121, body)
        == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    )


def test_it_is_sent_again_until_it_is_taken_with_the_same_id_and_body(receiver: Receiver) -> None:
    receiver.answers = [status(503), hang_up, babble, status(429, retry_after="0"), status(200)]
    told = send_export(receiver.url, STATEMENT, SECRET, patience=QUICK)
    assert (told.delivered, told.attempts, told.error) == (True, 5, "")
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    assert told.id == message_id(STATEMENT) == receiver.got[0][0]["webhook-id"]


def test_retry_after_is_honoured(receiver: Receiver) -> None:
    receiver.answers = [status(429, retry_after="1"), status(200)]
    assert send_export(receiver.url, STATEMENT, SECRET, patience=QUICK).delivered
    assert receiver.times[1] - receiver.times[0] >= 1.0


def test_a_server_that_asks_for_more_than_our_patience_is_left(receiver: Receiver) -> None:
    receiver.answers = [status(503, retry_after="Fri, 31 Dec 2100 23:59:59 GMT")]
    told = send_export(receiver.url, STATEMENT, SECRET, patience=QUICK)
    assert (told.delivered, told.attempts, told.status) == (False, 1, 503)
    assert "asked to wait" in told.error


@pytest.mark.parametrize("code", [301, 308, 400, 401, 404, 410, 501])
def test_what_will_not_get_better_is_not_repeated_but_server_errors_are(
    code: int, receiver: Receiver
) -> None:
    receiver.answers = [status(code, location=receiver.url)]
    told = send_export(receiver.url, STATEMENT, SECRET, patience=QUICK)
    assert (told.delivered, told.status) == (False, code)
    assert len(receiver.got) == told.attempts == (5 if code >= 500 else 1)


def test_a_server_that_drips_or_is_not_there_ends_by_its_time(receiver: Receiver) -> None:
    receiver.answers = [drip, status(200)]
    assert send_export(receiver.url, STATEMENT, SECRET, patience=QUICK).attempts == 2
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://localhost:{held.getsockname()[1]}/"
        told = send_export(url, STATEMENT, SECRET, patience=QUICK)
    assert (told.delivered, told.attempts, told.status) == (False, 5, None)
    assert "not reached" in told.error


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "ftp://127.0.0.1/", "https://", "https://user:pass@example.com/", "http://10.0.0.1/",
     "http://[::1", "https://example.com:99999/", "", "http://localhost.example.com/"],
)  # fmt: skip
def test_a_url_that_would_leak_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(CostError) as refused:
        send_export(url, STATEMENT, SECRET, patience=QUICK)
    assert refused.value.error_code == "webhook-url"
    assert "pass" not in str(refused.value).replace("password", "")


def test_allowed_hosts_may_be_reached_without_tls() -> None:
    for url in (
        "http://10.1.2.3/",
        "http://builder/",
        "http://[::1]:8/",
        "http://127.0.0.2/",
        "https://x.org/",
    ):
        check_url(url, ("10.0.0.0/8", "builder"))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!"])
def test_nothing_is_sent_without_a_usable_secret(secret: str, receiver: Receiver) -> None:
    with pytest.raises(CostError) as refused:
        send_export(receiver.url, STATEMENT, secret, patience=QUICK)
    assert refused.value.error_code == "webhook-secret"
    assert receiver.got == []


def test_the_record_says_what_came_of_it_and_holds_no_secret(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "exports" / "deliveries.ndjson"
    receiver.answers = [status(400), status(200)]
    for _ in range(2):
        record_delivery(path, send_export(receiver.url, STATEMENT, SECRET, patience=QUICK))
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line)["delivered"] for line in text.splitlines()] == [False, True]
    assert "secret-in-the-query" not in text
    assert SECRET not in text
    assert "whsec_" not in text
