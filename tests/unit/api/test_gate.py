"""Nobody else's page can make the Dagster UI do something, or read what it shows."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from api_support import Served, talk
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from maestro_dagster.api import app

GRAPHQL = "/dagster/graphql"
JSON = {"content-type": "application/json"}
QUERY = json.dumps({"query": "mutation { x }"}).encode()


@pytest.fixture
def reached(served: Served) -> list[tuple[str, str]]:
    """What comes through to the place of the UI: method and path."""
    found: list[tuple[str, str]] = []

    async def pages(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope.get("method", "WS"), scope["path"]))
        if scope["type"] == "websocket":
            socket = WebSocket(scope, receive, send)
            await socket.accept(subprotocol="graphql-ws")
            await socket.send_json({"seen": True})
            await socket.close()
            return
        body = await Request(scope, receive).body()
        response: Response = JSONResponse({"path": scope["path"], "size": len(body)})
        await response(scope, receive, send)

    served.slot.app = pages
    return found


def own(served: Served) -> dict[str, str]:
    return {"origin": f"http://127.0.0.1:{served.port}"}


def test_a_query_by_our_own_page_comes_through(served: Served, reached: list[tuple[str, str]]) -> None:
    assert served.call("POST", GRAPHQL, QUERY, {**JSON, **own(served)}).status == HTTPStatus.OK
    assert served.call("POST", GRAPHQL, QUERY, JSON).status == HTTPStatus.OK  # a script, no browser
    assert (
        served.call("POST", GRAPHQL, QUERY, {"content-type": "application/json; charset=utf-8"}).status == 200
    )
    assert reached == [("POST", GRAPHQL)] * 3


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_query_by_get(served: Served, reached: list[tuple[str, str]], method: str) -> None:
    for path in (GRAPHQL, f"{GRAPHQL}?query=mutation%7Bx%7D", "/dagster%2Fgraphql?query=x"):
        assert served.call(method, path).status == HTTPStatus.METHOD_NOT_ALLOWED
    assert reached == []


@pytest.mark.parametrize("path", ["/dagster//graphql%0a", "/dagster/graphql%0A", "/dagster/%00", "/%7f"])
def test_no_path_with_control_characters(
    served: Served, reached: list[tuple[str, str]], path: str
) -> None:  # routes end with `$`, which a newline at the end satisfies
    assert served.call("GET", f"{path}?query=mutation%7Bx%7D").status == HTTPStatus.NOT_FOUND
    assert reached == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_no_other_method(served: Served, reached: list[tuple[str, str]], method: str) -> None:
    assert served.call(method, GRAPHQL, QUERY, JSON).status == HTTPStatus.METHOD_NOT_ALLOWED
    assert reached == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},  # another port is another origin
        {"origin": "http://[::1"},
        {"origin": "file://127.0.0.1:PORT"},
        {"origin": "http://user@127.0.0.1:PORT"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_nothing_changes_for_another_page(
    served: Served, reached: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    headers = {name: value.replace("PORT", str(served.port)) for name, value in headers.items()}
    for path in (GRAPHQL, "/dagster/report_asset_materialization/a", "/dagster/"):
        answer = served.call("POST", path, QUERY, {**JSON, **headers})
        assert (answer.status, answer.form["code"]) == (403, "origin-foreign")
    assert reached == []


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "text/plain; application/json",
        "",
    ],
)
def test_only_json(served: Served, reached: list[tuple[str, str]], kind: str) -> None:
    answer = served.call("POST", GRAPHQL, QUERY, {"content-type": kind})
    assert (answer.status, answer.form["code"]) == (415, "content-type")
    assert reached == []


REBOUND = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1")
KNOWN = (
    "localhost:3000",
    "127.0.0.1",
    "[::1]:3000",
    "ci.example",
    "CI.example:8443",
    "10.0.0.7",
    "a.localhost",
)


@pytest.mark.parametrize("path", ["/dagster/", "/metrics", "/"])
def test_a_name_that_was_rebound_to_us_reads_nothing(
    served: Served, reached: list[tuple[str, str]], path: str
) -> None:
    for host in REBOUND:
        answer = served.call("GET", path, headers={"host": host})
        assert (answer.status, answer.form["code"]) == (421, "host-unknown")
    assert reached == []


@pytest.mark.parametrize("host", KNOWN)
def test_names_that_are_known(served: Served, reached: list[tuple[str, str]], host: str) -> None:
    headers = {"host": host, "origin": f"https://{host}", **JSON}
    assert served.call("POST", GRAPHQL, QUERY, headers).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("CI.example:443", "https://ci.example", 200),
        ("ci.example", "https://CI.example:443", 200),
        ("ci.example:80", "http://ci.example", 200),
        ("ci.example.", "https://ci.example.", 200),
        ("ci.example.:443", "https://ci.example.", 200),
        ("localhost.:3000", "http://localhost.:3000", 200),
        ("ci.example:443", "http://ci.example", 403),
        ("ci.example:80", "https://ci.example", 403),
        ("ci.example:8443", "https://ci.example", 403),
        ("ci.example", "https://ci.example:8443", 403),
        ("ci.example", "https://evil.example", 403),
        ("ci.example", "https://x@ci.example", 403),
        ("ci.example..", "https://ci.example..", 421),
        ("x@ci.example", "https://ci.example", 421),
        ("ci.example/", "https://ci.example", 421),
        ("ci.example:x", "https://ci.example", 421),
        ("ci.example:99999", "https://ci.example", 421),
        ("evil.example.", "https://evil.example.", 421),
    ],
)
def test_a_name_is_the_same_with_its_usual_port_and_with_a_dot(
    served: Served, reached: list[tuple[str, str]], host: str, origin: str, status: int
) -> None:
    answer = served.call("POST", GRAPHQL, QUERY, {"host": host, "origin": origin, **JSON})
    assert answer.status == status
    assert len(reached) == (status == HTTPStatus.OK)


def test_forges_and_probes_may_use_any_name(served: Served) -> None:
    assert served.push(("event-0001", "refs/heads/main"), host="tunnel.example").status == 202
    assert served.call("GET", "/healthz", headers={"host": "10-0-0-1.pod"}).status == 200
    assert served.call("GET", "/readyz", headers={"host": "10-0-0-1.pod"}).status == 200


def test_a_websocket_of_our_own_page(served: Served, reached: list[tuple[str, str]]) -> None:
    url = f"ws://127.0.0.1:{served.port}{GRAPHQL}"
    with connect(url, origin=f"http://127.0.0.1:{served.port}", subprotocols=["graphql-ws"]) as socket:  # type: ignore[arg-type,list-item]
        assert json.loads(socket.recv(10)) == {"seen": True}
    assert reached == [("WS", GRAPHQL)]


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
def test_no_websocket_of_another_page(
    served: Served, reached: list[tuple[str, str]], origin: str | None
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{served.port}{GRAPHQL}", origin=origin)  # type: ignore[arg-type]
    assert caught.value.response.status_code == HTTPStatus.FORBIDDEN
    for path in ("/dagster/", "/", "/webhooks/shop"):
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{served.port}{path}", origin=f"http://127.0.0.1:{served.port}")  # type: ignore[arg-type]
    assert reached == []


def test_what_the_pages_ask_for_without_their_prefix(served: Served, reached: list[tuple[str, str]]) -> None:
    for path in ("/favicon-run-success.svg", "/favicon.ico"):
        assert served.call("GET", path).form == {"path": f"/dagster{path}", "size": 0}


def test_a_query_has_a_size(served: Served, reached: list[tuple[str, str]]) -> None:
    assert served.call("POST", GRAPHQL, QUERY, JSON).form["size"] == len(QUERY)
    assert served.call("POST", GRAPHQL, bytes(1_000_000), JSON).form["size"] == 1_000_000
    head = f"POST {GRAPHQL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    length = f"content-length: {app.UI_BODY_BYTES + 1}\r\n\r\n"
    assert b" 413 " in talk(served.port, (head + length).encode()).splitlines()[0]
    assert len(reached) == 2
