"""Where a price list comes from: the installed litellm, a file, or a URL.

Which addresses a URL may lead to is the caller's rule: it is asked about every address that a connection is
made to, so that a name that resolves to another one meanwhile gains nothing.
"""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from maestro_dagster.errors import CostError
from maestro_dagster.llm import price_map

LARGEST = 64 * 1024 * 1024  # bytes; such lists have some 3 MB
_TIMEOUT = 30.0  # seconds

AddressCheck = Callable[[str, str], None]  # (address, host that it is of): raises MaestroError


@dataclass(frozen=True, slots=True)
class PriceList:
    """A list as it was read. `name` says where from, without what is nobody's business."""

    name: str
    data: bytes


def read_list(source: str | None, check_address: AddressCheck) -> PriceList:
    """The list of the installed litellm, of a file, or of an https URL (http on this machine only).

    Raises CostError (`price-list-missing`, `price-list-url`, `price-list-large`), and what `check_address`
    raises of an address that may not be reached.
    """
    if source is None:
        return _read_installed()
    if "://" in source:
        return _read_url(source, check_address)
    return _read_file(Path(source))


def _read_installed() -> PriceList:
    path = price_map.find_shipped()
    if path is None:
        raise CostError(
            "no litellm with a price list is installed",
            remedy="install litellm, or give a list: --from FILE or --from URL",
            code="price-list-missing",
        )
    return PriceList(price_map.list_name(), _read_file(path).data)


def _read_file(path: Path) -> PriceList:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise CostError(
            f"the price list cannot be read: {error.strerror}",
            place=str(path),
            remedy="name a file in LiteLLM's form",
            code="price-list-missing",
        ) from error
    return PriceList(path.name, _bounded(data, str(path)))


def _read_url(url: str, check_address: AddressCheck) -> PriceList:
    parts = _check_url(url)
    name = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may hold a key
    host = parts.hostname or ""
    _check_name(host, parts.port, check_address)
    opener = urllib.request.build_opener(_NoRedirect(), *_guard(host, check_address))
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            data = answer.read(LARGEST + 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise CostError(
            f"the price list cannot be fetched: {reason}",
            place=name,
            remedy="check the URL and the network, or give a file: --from FILE",
            code="price-list-missing",
        ) from None
    return PriceList(name, _bounded(data, name))


def _check_url(url: str) -> SplitResult:
    """Prices decide on money: nobody between here and there may change them."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))
        valid = plain and bool(parts.hostname) and not parts.username and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise CostError(
            "a price list comes from an https URL without a user name",
            remedy="write https://host/path; http is for this machine only",
            code="price-list-url",
        )
    return parts


def _is_here(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_name(host: str, port: int | None, check_address: AddressCheck) -> None:
    """Before anything is sent, through a proxy too, which resolves the name itself."""
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except OSError:
        return  # only a proxy may know it; without one there is nothing to connect to
    for *_, address in found:
        check_address(str(address[0]), host)


def _guard(host: str, check_address: AddressCheck) -> tuple[urllib.request.BaseHandler, ...]:
    """Handlers whose connections to `host` are to checked addresses only; a proxy is the operator's."""

    def connect(address: tuple[str, int], timeout: Any = _TIMEOUT, source: Any = None) -> socket.socket:
        if address[0] != host:
            return socket.create_connection(address, timeout, source)
        failed: OSError | None = None
        for *_, found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            numeric = str(found[0])
            check_address(numeric, host)
            try:
                return socket.create_connection((numeric, address[1]), timeout, source)
            except OSError as error:
                failed = error
        raise failed or OSError("the host has no address")

    return _GuardedHttp(connect), _GuardedHttps(connect)


Connect = Callable[..., socket.socket]


class _GuardedHttp(urllib.request.HTTPHandler):
    def __init__(self, connect: Connect) -> None:
        super().__init__()
        self._connect = connect

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_open_connection, HTTPConnection, self._connect), req)


class _GuardedHttps(urllib.request.HTTPSHandler):
    def __init__(self, connect: Connect) -> None:
        super().__init__()
        self._connect = connect

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_open_connection, HTTPSConnection, self._connect), req)


def _open_connection(
    kind: type[HTTPConnection], connect: Connect, host: str, **options: Any
) -> HTTPConnection:
    """http.client asks this attribute for its socket; TLS still checks the name of the host."""
    connection = kind(host, **options)
    connection._create_connection = connect  # type: ignore[attr-defined]  # noqa: SLF001
    return connection


def _bounded(data: bytes, place: str) -> bytes:
    if len(data) > LARGEST:
        raise CostError(
            f"the price list is larger than {LARGEST} bytes",
            place=place,
            remedy="give a list in LiteLLM's form",
            code="price-list-large",
        )
    return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect may lead anywhere: it becomes the error that it is for us."""

    def redirect_request(self, *_: object) -> None:
        return None
