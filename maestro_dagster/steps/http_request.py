"""`http/request`: any HTTP request, with a body from the settings or from an input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.input import is_json
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult

if TYPE_CHECKING:
    from maestro_dagster.steps.address import AddressRule

# They are set by the exchange itself, or they would carry a secret that belongs into `auth_secret`.
_REFUSED_HEADERS = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
    }
)
_AGENT = "maestro-dagster"


class HttpConfig(StepConfig):
    """What both http kinds share. Times are seconds, sizes bytes after decompression."""

    url: str = Field(max_length=8192, description="http or https address")
    headers: dict[str, str] = Field(default_factory=dict, max_length=50)
    auth_secret: str | None = Field(
        default=None, description="name of a declared secret, sent to this host only"
    )
    auth_scheme: str = Field(default="Bearer", pattern=r"^[A-Za-z]*$", description="empty: the bare secret")
    auth_header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9-]{1,64}$")
    expect: tuple[str, ...] = Field(default=(), description="accepted media types, `application/*` too")
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    max_bytes: int = Field(default=16 * 1024**2, ge=1, le=512 * 1024**2)
    max_redirects: int = Field(default=5, ge=0, le=20)

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _REFUSED_HEADERS:
                raise ValueError(
                    f"the header {name} is not set by hand; a credential is named in auth_secret"
                )
            if not name.isascii() or any(letter in name + value for letter in "\r\n\0"):
                raise ValueError(f"the header {name!r} is not valid")
        return headers


class HttpRequestConfig(HttpConfig):
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: str | None = Field(default=None, description="text to send")
    json_: Any = Field(default=None, alias="json", description="JSON to send")
    body_from: str | None = Field(default=None, description="input whose content is sent")
    content_type: str | None = None
    ok_statuses: tuple[int, ...] = Field(default=(), description="default: 200 to 299")


class HttpRequest(StepKind[HttpRequestConfig]):
    """Sends `Idempotency-Key` with what changes something, so that a repeated attempt can be recognised."""

    uses: ClassVar[str] = "pkg:http/request@1.0.0"
    summary: ClassVar[str] = "Send an HTTP request."
    config = HttpRequestConfig

    def effects(self, config: HttpRequestConfig) -> Effects:
        return http_effects(config)

    def estimate(self, config: HttpRequestConfig) -> Estimate:
        return Estimate(cpu_seconds=0.2, bytes_out=min(config.max_bytes, 1024**2))

    async def run(
        self, context: StepContext, config: HttpRequestConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        body, content_type = _body(context, config, inputs)
        headers = dict(config.headers)
        if content_type is not None:
            headers["Content-Type"] = content_type
        if config.method not in ("GET", "HEAD"):
            headers.setdefault("Idempotency-Key", context.idempotency_key)
        return await send(context, config, config.method, headers, body, config.ok_statuses)


def http_effects(config: HttpConfig) -> Effects:
    """The host that is asked, `*` while an expression still hides it, and the secret that is used."""
    try:
        host = urlsplit(config.url).hostname
    except ValueError:
        host = None
    egress = "*" if host is None or "$" in host or "{" in host else host
    return Effects(egress=(egress,), secrets=(config.auth_secret,) if config.auth_secret else ())


async def send(
    context: StepContext,
    config: HttpConfig,
    method: str,
    headers: dict[str, str],
    body: bytes | None = None,
    ok_statuses: tuple[int, ...] = (),
) -> StepResult:
    """Sends it under the step's network rule; the answer's body becomes the artifact."""
    from maestro_dagster.steps.address import AddressRule
    from maestro_dagster.steps.http_fetch import Exchange, exchange_http

    rule = AddressRule(context.network.egress, context.network.allow_private)
    headers.setdefault("User-Agent", _AGENT)
    if config.expect:
        headers.setdefault("Accept", ", ".join(config.expect))
    if config.auth_secret is not None:
        headers[config.auth_header] = _credential(context, config, rule)
    exchange = Exchange(
        url=config.url,
        method=method,
        headers=headers,
        body=body,
        timeout=config.timeout_seconds,
        max_bytes=config.max_bytes,
        max_redirects=config.max_redirects,
        expect=config.expect,
        ok_statuses=ok_statuses,
        credentials=frozenset({config.auth_header.lower()}),
    )
    answer = await exchange_http(exchange, rule)
    context.meter.add_network(len(answer.body), len(body or b""))
    facts = {"status": answer.status, "url": answer.url, "redirects": answer.redirects}
    facts |= {
        name: answer.headers[name][:200] for name in ("etag", "last-modified") if name in answer.headers
    }
    textual = (
        answer.media_type.startswith("text/") or is_json(answer.media_type) or "xml" in answer.media_type
    )
    preview = f"```\n{answer.body[:2000].decode('utf-8', 'replace')}\n```" if textual else ""
    return StepResult(data=answer.body, media_type=answer.media_type, facts=facts, preview=preview)


def _credential(context: StepContext, config: HttpConfig, rule: AddressRule) -> str:
    assert config.auth_secret is not None  # noqa: S101 - the caller checked; for the type checker
    parts = urlsplit(config.url)
    if parts.scheme != "https" and not rule.excepts_host(parts.hostname or ""):
        raise StepError(
            "a secret is not sent over plain http",
            place=f"step {context.step}",
            remedy="use https",
            code="http-plain-secret",
        )
    secret = context.secret(config.auth_secret)
    return f"{config.auth_scheme} {secret}".strip()


def _body(
    context: StepContext, config: HttpRequestConfig, inputs: Mapping[str, Artifact]
) -> tuple[bytes | None, str | None]:
    given = [config.body is not None, config.json_ is not None, config.body_from is not None]
    if sum(given) > 1:
        raise StepError(
            "the request has more than one body",
            place=f"step {context.step}",
            remedy="give one of body, json, body_from",
            code="http-body",
        )
    if config.json_ is not None:
        return json.dumps(config.json_).encode(), config.content_type or "application/json"
    if config.body is not None:
        return config.body.encode(), config.content_type or "text/plain; charset=utf-8"
    if config.body_from is not None:
        from maestro_dagster.steps.input import read_only_input

        _, artifact = read_only_input(inputs, context.step, config.body_from)
        return context.store.read(artifact.digest), config.content_type or artifact.media_type
    return None, config.content_type
