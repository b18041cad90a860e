"""Is a delivery from the forge? Checked over the raw bytes, in constant time, before anything is parsed.

    github               X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the body>
    bitbucket, -server   X-Hub-Signature: sha256=<the same>
    gitea, Forgejo       X-Gitea-Signature, X-Forgejo-Signature: <hex>, or GitHub's header
    gitlab               with a signing token as `standard`, else X-Gitlab-Token: the secret
    azure-devops         Authorization: Basic <user>:<secret>
    standard             webhook-id, -timestamp, -signature of standardwebhooks.com (v1, v1a)

Any of the given secrets will do, so that one can be replaced while the forge still signs with the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from maestro_dagster.errors import EventError

TOLERANCE = 300  # seconds that a signed time may differ from ours, either way
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_MAX_SIGNATURES = 20  # in one header; a sender that rotates sends two
_HUB_HEADERS = {
    "github": ("x-hub-signature-256",),
    "bitbucket": ("x-hub-signature",),
    "bitbucket-server": ("x-hub-signature",),
    "gitea": ("x-gitea-signature", "x-forgejo-signature", "x-hub-signature-256"),
}


def verify_signature(
    forge: str, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float
) -> str:
    """The delivery's id where the signature covers it, else nothing.

    Args:
        forge: a name of the table above.
        secrets: those that are valid now; empty ones never verify anything.
        headers: with names in lower case.
        body: the bytes as they came.
        now: seconds since the epoch.

    Raises EventError `webhook-unsigned`, `webhook-signature`, `webhook-stale`, `webhook-secret-missing`.

    """
    usable = [secret.strip() for secret in secrets if secret.strip()]
    if not usable:
        raise EventError(
            "no delivery can be checked: none of the webhook's secrets is known",
            place="webhook",
            remedy="set MAESTRO_SECRET_<NAME>, or write the file secrets/<name> in the home, for a name of "
            "`secrets` in resources/forges.yaml",
            code="webhook-secret-missing",
        )
    if forge == "standard" or (forge == "gitlab" and "webhook-signature" in headers):
        return _verify_standard(usable, headers, body, now)
    if forge == "gitlab":
        _verify_token(usable, _given(headers, "x-gitlab-token"))
    elif forge == "azure-devops":
        _verify_basic(usable, _given(headers, "authorization"))
    else:
        _verify_hub(usable, headers, _HUB_HEADERS[forge], body)
    return ""


def _verify_hub(
    secrets: Sequence[str], headers: Mapping[str, str], names: Sequence[str], body: bytes
) -> None:
    name = next((name for name in names if headers.get(name)), names[0])
    told = _given(headers, name)
    if name.startswith("x-hub-"):
        if not told.startswith("sha256="):
            raise _wrong()
        told = told.removeprefix("sha256=")
    if not _HEX.fullmatch(told):
        raise _wrong()
    given = bytes.fromhex(told)
    matches = [hmac.compare_digest(hmac.digest(secret.encode(), body, "sha256"), given) for secret in secrets]
    if not any(matches):
        raise _wrong()


def _verify_token(secrets: Sequence[str], told: str) -> None:
    # Digests have one length, so that comparing tells nothing of the secret's.
    given = hashlib.sha256(_header_bytes(told)).digest()
    matches = [hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), given) for secret in secrets]
    if not any(matches):
        raise _wrong()


def _verify_basic(secrets: Sequence[str], told: str) -> None:
    scheme, _, coded = told.partition(" ")
    try:
        pair = base64.b64decode(_header_bytes(coded.strip()), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong() from None
    if scheme.lower() != "basic" or b":" not in pair:
        raise _wrong()
    _verify_token(secrets, pair.partition(b":")[2].decode("latin-1"))


def _verify_standard(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> str:
    brand = "svix" if "svix-signature" in headers and "webhook-signature" not in headers else "webhook"
    message, stamp = _given(headers, f"{brand}-id"), _given(headers, f"{brand}-timestamp")
    told = _given(headers, f"{brand}-signature")
    if not re.fullmatch(r"[0-9]{1,12}", stamp):
        raise _unsigned(f"{brand}-timestamp")
    content = b".".join((_header_bytes(message), stamp.encode(), body))
    matches = [
        _matches_standard(secret, version, signature, content)
        for version, _, signature in (part.partition(",") for part in told.split(" ")[:_MAX_SIGNATURES])
        for secret in secrets
    ]
    if not any(matches):
        raise _wrong()
    if abs(now - int(stamp)) > TOLERANCE:
        raise EventError(
            f"the delivery was signed more than {TOLERANCE} seconds away from now",
            place="webhook",
            remedy="set the clocks of both machines; an old delivery is sent anew by the forge",
            code="webhook-stale",
        )
    return message


def _matches_standard(secret: str, version: str, signature: str, content: bytes) -> bool:
    try:
        given = base64.b64decode(_header_bytes(signature), validate=True)
    except (binascii.Error, ValueError):
        return False
    if version == "v1a":
        return any(_matches_public(key, given, content) for key in _public_keys(secret))
    matches = [
        hmac.compare_digest(hmac.digest(key, content, "sha256"), given) for key in _shared_keys(secret)
    ]
    return version == "v1" and any(matches)


def _shared_keys(secret: str) -> list[bytes]:
    """The key in base64, as the specification has it, and as a text, which is what a person types in.

    Never a public one: whoever knows it could sign.
    """
    text = secret.removeprefix("whsec_")
    if secret.startswith("whpk_") or not text:
        return []
    return [*_decode_key(text), secret.encode()]


def _public_keys(secret: str) -> list[bytes]:
    return _decode_key(secret.removeprefix("whpk_")) if secret.startswith("whpk_") else []


def _decode_key(coded: str) -> list[bytes]:
    try:
        key = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        return []
    return [key] if key else []


def _matches_public(key: bytes, given: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(given, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _given(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "").strip()
    if not value:
        raise _unsigned(name)
    return value


def _header_bytes(value: str) -> bytes:
    """The bytes that came; servers hand headers on as Latin-1."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _unsigned(header: str) -> EventError:
    return EventError(
        f"the delivery is not signed: it has no {header}",
        place="webhook",
        remedy="give the webhook the secret that resources/forges.yaml names",
        code="webhook-unsigned",
    )


def _wrong() -> EventError:
    return EventError(
        "the delivery's signature is not the one of its secret",
        place="webhook",
        remedy="see that forge and project have the same secret, and that no proxy changes the body",
        code="webhook-signature",
    )
