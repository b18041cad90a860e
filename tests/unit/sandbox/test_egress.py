"""The one way out: declared hosts pass, everything else does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from maestro_dagster.sandbox.egress import EgressProxy, is_allowed_address, is_declared, split_host

FETCH = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
except Exception as error:
    said = error.read().decode() if hasattr(error, 'read') else ''
    print(type(error).__name__, getattr(error, 'code', ''), said)
"""
TUNNEL = """
import os, socket, sys
from urllib.parse import urlsplit
proxy = urlsplit(os.environ['HTTPS_PROXY'])
with socket.create_connection((proxy.hostname, proxy.port), 5) as client:
    client.sendall(b'CONNECT %s HTTP/1.1\\r\\n\\r\\n' % sys.argv[1].encode())
    head = client.recv(4096)
    print(head.split(b'\\r\\n')[0].decode())
    if b' 200 ' in head:
        client.sendall(b'GET /x HTTP/1.0\\r\\n\\r\\n')
        print(client.recv(4096).decode().splitlines()[-1])
"""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server on the host's loopback that answers with the request line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.splitlines()[0]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("isolation", ["namespaces", "none"])
async def test_a_declared_host_is_reached(run_python: Any, port: Any, isolation: str) -> None:
    options = {"egress": (f"localhost:{port}",), "allow_private": ("localhost",), "isolation": isolation}
    url = f"http://localhost:{port}/page?a=b"
    clear = FETCH.replace(
        "try:", "__import__('os').environ.pop('no_proxy'); __import__('os').environ.pop('NO_PROXY')\ntry:"
    )
    result = await run_python(clear, arguments=(url,), **options)
    assert result.stdout.decode().strip() == "GET /page?a=b HTTP/1.1", result
    assert result.network_out > 0
    assert result.network_in > 0
    tunnel = await run_python(TUNNEL, arguments=(f"localhost:{port}",), **options)
    assert tunnel.stdout.decode().split("\n")[:2] == [
        "HTTP/1.1 200 Connection established",
        "GET /x HTTP/1.0",
    ]


@pytest.mark.parametrize(
    ("egress", "allow_private", "why"),
    [
        (("example.com",), ("localhost",), "is not in the step's egress"),
        (("localhost:1",), ("localhost",), "is not in the step's egress"),
        (("localhost",), ("localhost",), "is not in the step's egress"),  # ports of the web only
        (("localhost:{port}",), (), "private address"),
        (("localhost:{port}",), ("10.0.0.0/8",), "private address"),
    ],
)
async def test_what_is_not_declared_or_not_allowed_is_refused(
    run_python: Any, port: Any, egress: Any, allow_private: Any, why: Any
) -> None:
    egress = tuple(entry.format(port=port) for entry in egress)
    clear = FETCH.replace(
        "try:", "__import__('os').environ.pop('no_proxy'); __import__('os').environ.pop('NO_PROXY')\ntry:"
    )
    url = f"http://localhost:{port}/"
    result = await run_python(clear, arguments=(url,), egress=egress, allow_private=allow_private)
    assert "HTTPError 403" in result.stdout.decode()
    assert why in result.stdout.decode()
    assert result.refused_hosts == (f"localhost:{port}",)


async def test_without_the_proxy_there_is_no_way(run_python: Any, port: Any) -> None:
    """The network of the cage has a loopback of its own and nothing else, egress or not."""
    code = (
        "import socket\ntry:\n  socket.create_connection(('127.0.0.1', %d), 3)\n  print('in')\n"
        "except OSError: pass"
    )
    options = {"egress": (f"127.0.0.1:{port}",), "allow_private": ("127.0.0.1",)}
    assert (await run_python(code % port, **options)).stdout == b""


async def test_a_second_request_cannot_ride_on_the_connection_of_the_first(
    run_python: Any, port: Any
) -> None:
    code = """
    import os, socket
    from urllib.parse import urlsplit
    proxy = urlsplit(os.environ['HTTP_PROXY'])
    with socket.create_connection((proxy.hostname, proxy.port), 5) as client:
        for host in ('localhost:%d', 'other.example:80'):
            client.sendall(f'GET http://{host}/ HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n'.encode())
        data = b''
        while piece := client.recv(4096):
            data += piece
        print(data.count(b'HTTP/1.1 200'))
    """
    options = {"egress": (f"localhost:{port}",), "allow_private": ("localhost",)}
    assert (await run_python(code % port, **options)).stdout == b"1\n"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "172.16.0.1",
        "0.0.0.0",  # noqa: S104  an address that must be refused
        "::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "::127.0.0.1",
    ],
)
def test_private_addresses_are_refused(address: Any) -> None:
    assert not is_allowed_address("name.example", address, ())


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111"])
def test_public_addresses_pass(address: Any) -> None:
    assert is_allowed_address("name.example", address, ())


def test_a_project_allows_by_name_or_by_network() -> None:
    assert is_allowed_address("db.internal", "10.0.0.5", ("db.internal",))
    assert is_allowed_address("db.internal", "10.0.0.5", ("10.0.0.0/24",))
    assert not is_allowed_address("db.internal", "10.0.1.5", ("10.0.0.0/24",))


def test_declarations_compare_names_and_ports_exactly() -> None:
    assert is_declared("example.com", 443, ("EXAMPLE.com",))
    assert is_declared("example.com", 8443, ("example.com:8443",))
    assert not is_declared("example.com", 8443, ("example.com",))
    assert not is_declared("evil-example.com", 443, ("example.com",))
    assert not is_declared("example.com.evil.org", 443, ("example.com",))
    assert split_host("[2001:db8::1]:8080", None) == ("2001:db8::1", 8080)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT a:b HTTP/1.1\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"GET ftp://x/ HTTP/1.1\r\n\r\n",
    ],
)
async def test_nonsense_gets_no_connection(head: Any) -> None:
    proxy = EgressProxy(("a",), ())
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(head)
        assert b" 200 " not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
