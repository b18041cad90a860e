"""The http kinds against real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from maestro_dagster.errors import StepError
from maestro_dagster.steps.http_get import HttpGet
from maestro_dagster.steps.http_request import HttpRequest
from maestro_dagster.steps.interface import Network

LOCAL = Network(allow_private=("127.0.0.1",))


class Server:
    """A server on 127.0.0.1 that remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.port = 0
        self.other = ""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - one line a path
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.path, headers, body))
        path = request.path
        if path.startswith("/status/"):
            return web.Response(status=int(path.split("/")[2]))
        if path == "/echo":
            return web.json_response({"method": request.method, "body": body.decode()})
        if path.startswith("/hops/"):
            left = int(path.split("/")[2])
            target = f"/hops/{left - 1}" if left else "/text"
            return web.Response(status=302, headers={"Location": target})
        if path == "/away":
            return web.Response(status=307, headers={"Location": self.other})
        if path == "/slow":
            await asyncio.sleep(5)
        if path == "/bomb":
            return web.Response(body=gzip.compress(b"\0" * 50_000_000), headers={"Content-Encoding": "gzip"})
        if path == "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while True:
                    await response.write(b"x" * 65536)
            return response
        if path == "/feed":
            return web.Response(
                body=b"<rss/>", headers={"Content-Type": 'application/rss+xml; charset="UTF-8"'}
            )
        return web.Response(text="hello", headers={"ETag": '"1"'})


async def _start() -> tuple[Server, web.AppRunner]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    return server, runner


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, runner = await _start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def second() -> AsyncIterator[Server]:
    made, runner = await _start()
    yield made
    await runner.cleanup()


async def refusal(bench: Any, config: dict[str, Any], kind: Any = None) -> StepError:
    with pytest.raises(StepError) as caught:
        await bench.run(kind or HttpGet(), config)
    return caught.value


async def test_get_gives_the_body_its_type_and_facts(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    result = await bench.run(HttpGet(), {"url": server.url("/text?token=abc")})
    assert result.data == b"hello"
    assert result.media_type == "text/plain; charset=utf-8"
    assert result.facts == {
        "status": 200, "url": server.url("/text"), "redirects": 0, "etag": '"1"',
    }  # fmt: skip
    assert bench.meter.bytes_in == 5


async def test_loopback_is_refused_unless_the_project_allows_it(bench: Any, server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        error = await refusal(bench, {"url": server.url("/text", host)})
        assert error.error_code == "http-address", host
        assert not error.retryable
    assert server.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1.", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "0"])
async def test_odd_spellings_of_loopback_do_not_pass(bench: Any, server: Server, host: str) -> None:
    await refusal(bench, {"url": server.url("/text", host)})
    assert server.seen == []


async def test_a_name_that_resolves_to_a_private_address_is_refused(
    bench: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rebinding: the name says a public address first and a private one afterwards.
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])

    async def getaddrinfo(_loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    next(answers)
    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    error = await refusal(bench, {"url": server.url("/text", "rebind.example")})
    assert error.error_code == "http-address"
    assert server.seen == []


async def test_a_redirect_to_a_private_address_is_refused(bench: Any, server: Server, second: Server) -> None:
    # The first hop is excepted by its host name, the second stands for the service that must not be reached.
    bench.network = Network(allow_private=("localhost",))
    for target in (second.url("/text"), "http://169.254.169.254/latest/meta-data", "http://[::1]:1/"):
        server.other = target
        error = await refusal(bench, {"url": server.url("/away", "localhost")})
        assert error.error_code == "http-address"
    assert second.seen == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://127.0.0.1/", "//user:hunter2@127.0.0.1/"])
async def test_a_redirect_to_another_scheme_or_with_credentials_is_refused(
    bench: Any, server: Server, target: str
) -> None:
    bench.network = LOCAL
    server.other = target
    error = await refusal(bench, {"url": server.url("/away")})
    assert error.error_code in {"http-url", "http-credentials"}


async def test_redirects_are_followed_and_bounded(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    result = await bench.run(HttpGet(), {"url": server.url("/hops/2")})
    assert result.facts["redirects"] == 3
    error = await refusal(bench, {"url": server.url("/hops/9")})
    assert error.error_code == "http-redirects"


async def test_a_redirect_to_another_host_drops_the_credential(
    bench: Any, server: Server, second: Server
) -> None:
    bench.network = LOCAL
    bench.secrets["token"] = "s3cret"
    server.other = second.url("/text")
    await bench.run(HttpGet(), {"url": server.url("/away"), "auth_secret": "token"})
    assert server.seen[0][2]["authorization"] == "Bearer s3cret"
    assert "authorization" not in second.seen[0][2]
    config = {"url": server.url("/away"), "auth_secret": "token", "auth_scheme": "", "auth_header": "X-Key"}
    await bench.run(HttpGet(), config)
    assert server.seen[1][2]["x-key"] == "s3cret"
    assert "x-key" not in second.seen[1][2]


async def test_a_post_is_not_sent_on_to_another_host(bench: Any, server: Server, second: Server) -> None:
    bench.network = LOCAL
    server.other = second.url("/text")
    error = await refusal(bench, {"url": server.url("/away"), "body": "private"}, HttpRequest())
    assert error.error_code == "http-redirect"
    assert second.seen == []


async def test_a_secret_is_not_sent_over_plain_http(bench: Any) -> None:
    bench.secrets["token"] = "s3cret"
    error = await refusal(bench, {"url": "http://example.com/", "auth_secret": "token"})
    assert error.error_code == "http-plain-secret"
    # What the project allows for one private host is no licence for all others.
    bench.network = Network(allow_private=("127.0.0.1", "intranet.example"))
    for url in ("http://example.com/", "http://a.intranet.example/", "http:///"):
        assert (await refusal(bench, {"url": url, "auth_secret": "token"})).error_code == "http-plain-secret"


async def test_egress_is_enforced_on_every_hop(bench: Any, server: Server, second: Server) -> None:
    bench.network = Network(egress=(f"127.0.0.1:{server.port}",), allow_private=("127.0.0.1",))
    assert (await bench.run(HttpGet(), {"url": server.url("/text")})).data == b"hello"
    error = await refusal(bench, {"url": second.url("/text")})
    assert error.error_code == "http-egress"
    server.other = second.url("/text")
    assert (await refusal(bench, {"url": server.url("/away")})).error_code == "http-egress"
    assert second.seen == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_passing_fault_is_retryable(bench: Any, server: Server, status: int) -> None:
    bench.network = LOCAL
    error = await refusal(bench, {"url": server.url(f"/status/{status}")})
    assert error.error_code == "http-status"
    assert error.retryable


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
async def test_a_lasting_fault_is_not_retryable(bench: Any, server: Server, status: int) -> None:
    bench.network = LOCAL
    error = await refusal(bench, {"url": server.url(f"/status/{status}")})
    assert not error.retryable


async def test_a_slow_server_meets_the_time_limit(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    error = await refusal(bench, {"url": server.url("/slow"), "timeout_seconds": 0.2})
    assert error.error_code == "http-timeout"
    assert error.retryable


async def test_nobody_there_is_retryable(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await refusal(bench, {"url": f"http://127.0.0.1:{port}/"})
    assert error.error_code == "http-unreachable"
    assert error.retryable


@pytest.mark.parametrize("path", ["/bomb", "/endless"])
async def test_size_is_bounded_after_decompression(bench: Any, server: Server, path: str) -> None:
    bench.network = LOCAL
    error = await refusal(bench, {"url": server.url(path), "max_bytes": 1_000_000})
    assert error.error_code == "http-size"


async def test_an_unexpected_type_is_refused(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    config = {"url": server.url("/text"), "expect": ["application/*"]}
    assert (await refusal(bench, config)).error_code == "http-type"
    result = await bench.run(HttpGet(), {"url": server.url("/feed"), "expect": ["application/*"]})
    assert result.media_type == "application/rss+xml; charset=utf-8"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://example.com/", "http-url"),
        ("file:///etc/passwd", "http-url"),
        ("example.com", "http-url"),
        ("http://", "http-url"),
        ("http://[::1", "http-url"),
        ("http://a:99999999/", "http-url"),
        ("https://user:hunter2@example.com/", "http-credentials"),
        ("https://user@example.com/", "http-credentials"),
    ],
)
async def test_only_plain_web_addresses_are_fetched(bench: Any, url: str, code: str) -> None:
    error = await refusal(bench, {"url": url})
    assert error.error_code == code
    assert "hunter2" not in str(error)


async def test_a_request_sends_json_and_an_idempotency_key(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    result = await bench.run(HttpRequest(), {"url": server.url("/echo"), "json": {"a": 1}})
    assert json.loads(result.data) == {"method": "POST", "body": '{"a": 1}'}
    method, _, headers, _ = server.seen[0]
    assert (method, headers["content-type"], headers["idempotency-key"]) == (
        "POST",
        "application/json",
        "key-1",
    )


async def test_a_request_sends_an_input(bench: Any, server: Server) -> None:
    bench.network = LOCAL
    artifact = bench.put("payload", "text/csv")
    config = {"url": server.url("/echo"), "method": "PUT", "body_from": "made"}
    result = await bench.run(HttpRequest(), config, made=artifact)
    assert json.loads(result.data)["body"] == "payload"
    assert server.seen[0][2]["content-type"] == "text/csv"


async def test_a_request_with_two_bodies_is_refused(bench: Any) -> None:
    error = await refusal(bench, {"url": "https://example.com", "json": {}, "body": ""}, HttpRequest())
    assert error.error_code == "http-body"


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "x"}, {"cookie": "a=b"}, {"X-A": "b\r\nEvil: 1"}, {"X\nA": "b"}, {"Host": "other"}],
)
def test_headers_that_carry_credentials_or_break_lines_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        HttpGet().config.model_validate({"url": "https://example.com", "headers": headers})


def test_the_effects_name_the_host_and_the_secret() -> None:
    kind = HttpGet()
    config = kind.config.model_validate({"url": "https://Example.com:8443/x", "auth_secret": "token"})
    assert kind.effects(config).egress == ("example.com",)
    assert kind.effects(config).secrets == ("token",)
    hidden = kind.config.model_validate({"url": "${{ steps.a.output.url }}"})
    assert kind.effects(hidden).egress == ("*",)
