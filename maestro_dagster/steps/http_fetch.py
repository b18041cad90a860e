"""One HTTP exchange with all its bounds: addresses, redirects, size, time. Behind both http kinds."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from maestro_dagster.errors import StepError
from maestro_dagster.steps.address import AddressRule
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import Span, open_call

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# Dropped when a redirect leaves the host that they were meant for.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "idempotency-key"})
_PORTS = {"http": 80, "https": 443}
_TRACE = frozenset({"traceparent", "tracestate"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """What to send. `timeout` is in seconds over everything, `max_bytes` counts decompressed bytes."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 30.0
    max_bytes: int = 16 * 1024**2
    max_redirects: int = 5
    expect: tuple[str, ...] = ()
    ok_statuses: tuple[int, ...] = ()
    credentials: frozenset[str] = frozenset()  # lower-case names of headers that are for this host only


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    url: str  # the last one, without query and fragment
    media_type: str
    headers: Mapping[str, str]
    body: bytes
    redirects: int


async def exchange_http(exchange: Exchange, rule: AddressRule) -> Answer:
    """Raises StepError `http-*`; transient for what another attempt may mend."""
    import aiohttp

    shown = show_url(exchange.url)
    try:
        async with asyncio.timeout(exchange.timeout):
            return await _follow(exchange, rule)
    except TimeoutError:
        raise StepError.transient(
            f"no complete answer within {exchange.timeout:g} s",
            place=shown,
            remedy="raise timeout_seconds, or add retries",
            code="http-timeout",
        ) from None
    except aiohttp.ClientConnectorCertificateError as error:
        fact = f"the certificate is not trusted: {error.certificate_error}"
        raise _refused(fact, shown, "http-tls") from error
    except (aiohttp.InvalidURL, ValueError) as error:
        raise _refused(f"the address or a header is not valid: {error}", shown, "http-url") from error
    except (aiohttp.ClientError, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise StepError.transient(
            f"the exchange failed: {text}",
            place=shown,
            remedy="check the address; add retries",
            code="http-unreachable",
        ) from error


def show_url(url: str) -> str:
    """For messages and facts: without credentials, query and fragment, where secrets stand."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not an address)"
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"


async def _follow(exchange: Exchange, rule: AddressRule) -> Answer:
    for redirects in range(exchange.max_redirects + 1):
        found = await _trace_hop(exchange, rule, redirects)
        if isinstance(found, Answer):
            return found
        exchange = _redirected(exchange, found)
    raise _refused(f"more than {exchange.max_redirects} redirects", show_url(exchange.url), "http-redirects")


async def _trace_hop(exchange: Exchange, rule: AddressRule, redirects: int) -> Answer | str:
    """One hop in a span of its own, whose id the server learns (W3C Trace Context)."""
    with open_call(exchange.method) as span:
        try:
            parts = urlsplit(exchange.url)
            address, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            address, port = None, None
        span.attributes |= {
            name.HTTP_METHOD: exchange.method,
            name.URL_FULL: show_url(exchange.url),
            name.SERVER_ADDRESS: address,
            name.SERVER_PORT: port,
        }
        if span.trace_id:
            own = {"traceparent": span.traceparent}
            given = {key: value for key, value in exchange.headers.items() if key.lower() not in _TRACE}
            exchange = replace(exchange, headers={**given, **own})
        return await _exchange_once(exchange, rule, redirects, span)


async def _exchange_once(exchange: Exchange, rule: AddressRule, redirects: int, span: Span) -> Answer | str:
    """One hop: the answer, or where it redirects to."""
    import aiohttp

    host, port = _split_host(exchange.url)
    rule.check_host(host, port)
    refusals: list[StepError] = []
    try:
        async with (
            _open_session(rule, host, refusals) as session,
            session.request(
                exchange.method,
                exchange.url,
                headers=exchange.headers,
                data=exchange.body,
                allow_redirects=False,
            ) as response,
        ):
            span.attributes[name.HTTP_STATUS] = response.status
            if response.status in _REDIRECTS and "location" in response.headers:
                return str(response.url.join(_parse_location(response.headers["location"])))
            _check_status(response.status, response.reason or "", exchange)
            media_type = _media_type(response.headers.get("content-type", ""))
            _check_type(media_type, exchange)
            body = await _read_body(response, exchange)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, show_url(exchange.url), media_type, headers, body, redirects)
    except (aiohttp.ClientError, OSError):
        if refusals:
            raise refusals[0] from None
        raise


def _open_session(rule: AddressRule, host: str, refusals: list[StepError]) -> ClientSession:
    import aiohttp

    def guarded_socket(info: Any) -> socket.socket:
        # The last moment before the connection, after every name was resolved: what is checked here is what
        # is connected to, so that a name that changes its address between two look-ups gains nothing.
        family, kind, protocol, _, address = info
        try:
            rule.check_address(address[0], host)
        except StepError as error:
            refusals.append(error)
            raise PermissionError(error.fact) from error  # what aiohttp expects of a socket that fails
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=guarded_socket, force_close=True),
        trust_env=False,  # a proxy from the environment would reach what the rule forbids
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # one deadline over all redirects, set by the caller
    )


def _split_host(url: str) -> tuple[str, int]:
    """Host and port of an address that we are willing to ask."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _refused(f"it is no address: {error}", show_url(url), "http-url") from error
    if parts.scheme not in _PORTS or not host:
        raise _refused("only http and https addresses are fetched", show_url(url), "http-url")
    if parts.username is not None or parts.password is not None:
        raise _refused("an address must not carry credentials", show_url(url), "http-credentials")
    return host, port or _PORTS[parts.scheme]


def _redirected(exchange: Exchange, target: str) -> Exchange:
    """The next hop. Raises StepError when it would weaken what was asked for."""
    before, after = urlsplit(exchange.url), urlsplit(target)
    if before.scheme == "https" and after.scheme == "http":
        raise _refused("redirected from https to http", show_url(target), "http-redirect")
    headers = dict(exchange.headers)
    if (before.scheme, *_split_host(exchange.url)) != (after.scheme, *_split_host(target)):
        secret = _CREDENTIALS | exchange.credentials
        headers = {name: value for name, value in headers.items() if name.lower() not in secret}
        if exchange.body is not None or exchange.method not in ("GET", "HEAD"):
            raise _refused(
                f"a {exchange.method} was redirected to another host", show_url(target), "http-redirect"
            )
    # The method stays, whatever the status says: who asked for a POST did not mean a GET.
    return replace(exchange, url=target, headers=headers)


def _parse_location(text: str) -> URL:
    from yarl import URL

    return URL(text)


def _check_status(status: int, reason: str, exchange: Exchange) -> None:
    good = status in exchange.ok_statuses if exchange.ok_statuses else 200 <= status < 300  # noqa: PLR2004
    if good:
        return
    fact = f"the server answered {status} {reason[:80]}".rstrip()
    shown = show_url(exchange.url)
    if status in _TRANSIENT:
        raise StepError.transient(fact, place=shown, remedy="add retries", code="http-status")
    raise _refused(fact, shown, "http-status")


def _media_type(header: str) -> str:
    """The type, with its charset when it has one; everything else of the header is noise."""
    plain, _, rest = header.partition(";")
    plain = plain.strip().lower()
    if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", plain):
        return "application/octet-stream"
    charset = re.search(r'charset="?([\w.:-]{1,40})', rest, re.IGNORECASE)
    return f"{plain}; charset={charset[1].lower()}" if charset else plain


def _check_type(media_type: str, exchange: Exchange) -> None:
    plain = media_type.partition(";")[0]
    if exchange.expect and not any(fnmatchcase(plain, wanted.lower()) for wanted in exchange.expect):
        raise _refused(
            f"the answer is {plain}, not {' or '.join(exchange.expect)}", show_url(exchange.url), "http-type"
        )


async def _read_body(response: ClientResponse, exchange: Exchange) -> bytes:
    limit = exchange.max_bytes
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > limit:
            raise _refused(f"the answer is longer than {limit} bytes", show_url(exchange.url), "http-size")
    return bytes(body)


_REMEDIES = {
    "http-url": "give an http or https address of a host",
    "http-credentials": "declare a secret and name it in auth_secret",
    "http-redirects": "give the last address, or raise max_redirects",
    "http-redirect": "give the last address",
    "http-status": "check the address and what it asks for",
    "http-type": "check the address, or correct `expect`",
    "http-size": "raise max_bytes, if it is meant",
    "http-tls": "ask for an address with a valid certificate",
}


def _refused(fact: str, place: str, code: str) -> StepError:
    return StepError(fact, place=place, remedy=_REMEDIES[code], code=code)
