"""The only way out of a cage: a proxy in our process that knows the declared hosts."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket as sockets
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
CONNECT_SECONDS = 20.0
PIECE = 1 << 16
CONNECTIONS = 64
WEB_PORTS = (80, 443)
LAST_PORT = 65535


# Public IPv6 addresses stand in one block (RFC 4291); tunnels inside it carry IPv4 addresses unchecked.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address


class RefusedError(Exception):
    """The proxy will not connect there; the text goes to the caged client."""


@dataclass
class EgressProxy:
    """A forward proxy (RFC 9110 section 7.6, CONNECT section 9.3.6) for declared hosts only."""

    egress: tuple[str, ...]
    allow_private: tuple[str, ...]
    socket: Path | None = None
    url: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    refused: set[str] = field(default_factory=set)
    _open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            await self._handle(await self._read_head(reader), reader, writer)
        except RefusedError as error:
            with contextlib.suppress(OSError):
                body = f"refused by the cage: {error}\n".encode()
                writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n")
                writer.write(b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away or spoke no HTTP: it gets nothing
        finally:
            self._open -= 1
            writer.close()

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes:
        if self._open > CONNECTIONS:
            raise RefusedError("too many connections")
        async with asyncio.timeout(HEAD_SECONDS):
            return await reader.readuntil(b"\r\n\r\n")

    async def _handle(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        if method == "CONNECT":
            host, port = split_host(target, 443)
            far_reader, far_writer = await self._connect(host, port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target)
            if url.scheme != "http" or not url.hostname:
                raise RefusedError("only http:// targets and CONNECT are served")
            far_reader, far_writer = await self._connect(url.hostname, url.port or 80)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            # One request a connection: a second one on it could name another host unseen.
            kept = [
                field_line
                for field_line in rest.split(b"\r\n")
                if field_line and not field_line.lower().startswith((b"connection:", b"proxy-"))
            ]
            start = f"{method} {path} {version}".encode("latin-1")
            sent = b"\r\n".join([start, *kept, b"Connection: close", b"", b""])
            self.bytes_out += len(sent)
            far_writer.write(sent)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, outward=True), self._pump(far_reader, writer, outward=False)
            )
        finally:
            far_writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE):
                if outward:
                    self.bytes_out += len(data)
                else:
                    self.bytes_in += len(data)
                target.write(data)
                await target.drain()
            if target.can_write_eof():
                target.write_eof()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = host.rstrip(".").lower()
        if not is_declared(host, port, self.egress):
            self.refused.add(f"{host}:{port}")
            raise RefusedError(f"{host}:{port} is not in the step's egress")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=sockets.SOCK_STREAM)
        except OSError as error:
            raise RefusedError(f"{host} cannot be resolved") from error
        problem: OSError | None = None
        for _, _, _, _, address in found:
            # The address that was checked is the one connected to: a second look-up could answer otherwise.
            numeric = str(address[0])
            if not is_allowed_address(host, numeric, self.allow_private):
                continue
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(numeric, port)
            except (OSError, TimeoutError) as error:
                problem = OSError(str(error))
        if problem is not None:
            raise RefusedError(f"{host}:{port} cannot be reached")
        self.refused.add(f"{host}:{port}")
        raise RefusedError(f"{host} is a private address, which the project does not allow")


@contextlib.asynccontextmanager
async def open_proxy(
    egress: Sequence[str], allow_private: Sequence[str], *, unix: bool
) -> AsyncIterator[EgressProxy]:
    """Serves on a unix socket (to be bound into the cage) or, without a cage, on a loopback port."""
    proxy = EgressProxy(tuple(egress), tuple(allow_private))
    with tempfile.TemporaryDirectory(prefix="maestro-out-") as folder:
        if unix:
            proxy.socket = Path(folder, "proxy.sock")
            server = await asyncio.start_unix_server(proxy.serve, str(proxy.socket), limit=HEAD_BYTES)
            proxy.socket.chmod(0o666)  # the folder is ours alone; inside, another user connects
        else:
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=HEAD_BYTES)
            proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            server.close()


def split_host(text: str, default_port: int | None) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port`; -1 stands for any port where no default is given."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if port and not (port.isdecimal() and 0 < int(port) <= LAST_PORT):
        raise ValueError(text)
    return host, int(port) if port else (-1 if default_port is None else default_port)


def is_declared(host: str, port: int, egress: Sequence[str]) -> bool:
    """A declaration without a port means the ports of the web, 80 and 443."""
    for entry in egress:
        name, wanted = split_host(entry.lower(), None)
        if name == host and (port == wanted or (wanted == -1 and port in WEB_PORTS)):
            return True
    return False


def is_allowed_address(host: str, address: str, allow_private: Sequence[str]) -> bool:
    """Public addresses pass; private, loopback and metadata ones only where the project says so."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or (_embedded(found) if found in NAT64 else found)
    if _is_public(found):
        return True
    for entry in allow_private:
        if entry.lower() == host:
            return True
        with contextlib.suppress(ValueError):
            if found in ipaddress.ip_network(entry, strict=False):
                return True
    return False


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    return address in GLOBAL_UNICAST and address.sixtofour is None and address.teredo is None


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(address.packed[-4:])
