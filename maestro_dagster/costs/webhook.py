"""Tells a web server of an export or an alert: signed after Standard Webhooks, sent until it is taken.

webhook-id          the same for the same fact, so that the receiver can tell a repetition
webhook-timestamp   seconds since the epoch, of this attempt
webhook-signature   v1,<base64 of HMAC-SHA256 over "id.timestamp.body">
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from maestro_dagster.costs.spool import write_error
from maestro_dagster.costs.statement import ExportStatement
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import aiohttp

EVENT_TYPE: Final = "maestro.cost-export.v1"
ATTACHMENT_LIMIT: Final = 1_000_000  # bytes of a file that is sent along
_PREFIX: Final = "whsec_"
_AGAIN: Final = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_TAKEN = range(200, 300)
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of sending. `host` is the receiver without path and query, which may hold a secret.

    `digest` is that of the file which an export is about, of the message itself for anything else.
    """

    id: str
    host: str
    delivered: bool
    attempts: int
    status: int | None
    error: str
    at: str
    digest: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one tries. Seconds; `total` bounds all waiting together, a server's wishes included."""

    attempts: int = 8
    timeout: float = 15.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """`again`: trying once more can help. `wait`: seconds that the server asked for."""

    status: int | None
    error: str
    again: bool = False
    wait: float = 0.0


def check_url(url: str, allowed: Sequence[str] = ()) -> SplitResult:
    """Allows https to anywhere; http only to this machine and to `allowed` hosts, IPs and CIDRs.

    Raises CostError (`webhook-url`).
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_url("it is no URL") from None
    if parts.username is not None or parts.password is not None:
        raise _bad_url("a password stands in it")
    if not host or parts.scheme not in {"https", "http"}:
        raise _bad_url("it is not an https URL with a host")
    if parts.scheme == "http" and not _is_near(host, allowed):
        raise _bad_url("what is sent over http can be read and changed on the way")
    return parts


def make_body(statement: ExportStatement, bundle: bytes | None, attachment: bytes | None = None) -> bytes:
    """The message: the statement, its signed form, and the file itself when given. The same each time."""
    data: dict[str, Any] = {"statement": statement.to_json()}
    if bundle is not None:
        data["bundle"] = json.loads(bundle)
    if attachment is not None:
        data["file"] = {"name": statement.file, "base64": base64.b64encode(attachment).decode()}
    days = (statement.until or statement.last_day, statement.since or statement.first_day)
    # The moment of the fact, which is the end of its period: a repetition must be the same message.
    moment = next((f"{day}T00:00:00Z" for day in days if day), "1970-01-01T00:00:00Z")
    body = {"type": EVENT_TYPE, "timestamp": moment, "data": data}
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def message_id(statement: ExportStatement) -> str:
    """The same for the same statement."""
    text = json.dumps(statement.to_json(), sort_keys=True).encode()
    return f"msg_{hashlib.sha256(text).hexdigest()}"


def sign_message(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Raises CostError (`webhook-secret`). A secret without `whsec_` is taken as it stands."""
    try:
        key = base64.b64decode(secret[len(_PREFIX):], validate=True) if secret.startswith(_PREFIX) else (
            secret.encode())  # fmt: skip
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise CostError(
            "the secret of the webhook cannot be used",
            remedy="give a text, or whsec_ and base64 as the receiver shows it",
            code="webhook-secret",
        ) from None
    signed = b"%s.%d.%s" % (identity.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def check_secret(secret: str) -> None:
    """Raises CostError (`webhook-secret`) for what nothing can be signed with."""
    sign_message(secret, "", 0, b"")


def send_export(
    url: str,
    statement: ExportStatement,
    secret: str,
    *,
    bundle: bytes | None = None,
    attachment: bytes | None = None,
    allowed: Sequence[str] = (),
    patience: Patience | None = None,
) -> Delivery:
    """Sends until the receiver takes it, refuses it for good, or patience ends; `delivered` says which.

    Raises CostError (`webhook-url`, `webhook-secret`). Redirections are not followed: the receiver was named
    by the operator.
    """
    body = make_body(statement, bundle, attachment)
    sent = send_message(url, secret, body, message_id(statement), allowed=allowed, patience=patience)
    return replace(sent, digest=statement.digest)


def send_message(
    url: str,
    secret: str,
    body: bytes,
    identity: str,
    *,
    allowed: Sequence[str] = (),
    patience: Patience | None = None,
) -> Delivery:
    """Sends a JSON text under an id that is the same each time it is sent, as `send_export` does.

    Raises CostError (`webhook-url`, `webhook-secret`).
    """
    parts = check_url(url, allowed)
    check_secret(secret)
    patience = patience or Patience()
    answer, attempts = asyncio.run(_send(url, body, identity, secret, patience))
    port = f":{parts.port}" if parts.port else ""
    return Delivery(
        id=identity,
        host=f"{parts.scheme}://{parts.hostname}{port}",
        delivered=answer.status in _TAKEN,
        attempts=attempts,
        status=answer.status,
        error=answer.error,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        digest=f"sha256:{hashlib.sha256(body).hexdigest()}",
    )


def record_delivery(path: Path, delivery: Delivery) -> None:
    """One line of NDJSON, appended and durable. Raises CostError (`disk-full`, `spool-write`)."""
    line = json.dumps(asdict(delivery), sort_keys=True).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(error, path) from error


async def _send(
    url: str,
    body: bytes,
    identity: str,
    secret: str,
    patience: Patience,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[_Answer, int]:
    import aiohttp

    waited, attempt = 0.0, 0
    limit = aiohttp.ClientTimeout(total=patience.timeout)
    async with aiohttp.ClientSession(timeout=limit, cookie_jar=aiohttp.DummyCookieJar()) as session:
        while True:
            attempt += 1
            answer = await _post(session, url, body, identity, secret)
            if not answer.again or attempt >= patience.attempts:
                return answer, attempt
            longest = min(patience.longest_wait, patience.first_wait * 2 ** (attempt - 1))
            pause = max(answer.wait, _random.uniform(longest / 2, longest))
            if waited + pause > patience.total:
                asked = f"; it asked to wait {answer.wait:.0f} s" if answer.wait else ""
                return _Answer(answer.status, answer.error + asked), attempt
            await sleep(pause)
            waited += pause


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, identity: str, secret: str) -> _Answer:
    import aiohttp

    now = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "maestro-dagster",
        "webhook-id": identity,
        "webhook-timestamp": str(now),
        "webhook-signature": sign_message(secret, identity, now, body),
    }
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            status, asked = response.status, response.headers.get("retry-after", "")
    except aiohttp.InvalidURL:
        raise _bad_url("it is no URL") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _Answer(None, _name_failure(error), again=not isinstance(error, aiohttp.ClientSSLError))
    if status in _TAKEN:
        return _Answer(status, "")
    again = status >= _SERVER_ERROR or status in _AGAIN
    return _Answer(status, f"the server answered {status}", again, _read_wait(asked) if again else 0.0)


def _name_failure(error: Exception) -> str:
    """Never the URL: its path may be a secret."""
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    system = getattr(error, "os_error", error)
    why = getattr(system, "strerror", None)
    return f"the server was not reached: {why or type(error).__name__}"


def _read_wait(text: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date; 0 for anything else."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _is_near(host: str, allowed: Sequence[str]) -> bool:
    if host == "localhost" or host in allowed:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(allowed))


def _networks(allowed: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for text in allowed:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue  # a host's name
    return found


def _bad_url(why: str) -> CostError:
    return CostError(
        f"the webhook's URL cannot be used: {why}",
        remedy="give an https URL; http only for this machine or a host in network_allow_private",
        code="webhook-url",
    )
