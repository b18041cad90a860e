"""Sigstore bundles that stand alone: whether one, ours or anybody's, speaks of an artifact."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.dsse import PAYLOAD_TYPE, encode_pae
from maestro_dagster.evidence.key import PublicKey, read_public_key
from maestro_dagster.evidence.keyless import KeylessTrust

_MEDIA_TYPES: Final = frozenset(
    {
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    }
)
_STATEMENTS: Final = frozenset({"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"})


def verify_attestation(
    data: bytes,
    artifact: bytes,
    *,
    keys: Sequence[bytes] = (),
    keyless: KeylessTrust | None = None,
) -> None:
    """Returns when the bundle is a good signature, or signed statement, about `artifact`.

    Judged by `keyless` when given, else by the public keys (PEM). Log entries beside a key's signature
    are not judged: the key is the trust. Raises EvidenceError for a refusal, KeyMissingError.
    """
    if keyless is None and not keys:
        raise KeyMissingError("there is no key to verify with", remedy="give a public key with --key")
    document = _read_bundle(data)
    if "dsseEnvelope" in document:
        payload = _open_envelope(data, document, keys, keyless)
        _check_subject(payload, artifact)
    elif keyless is not None:
        keyless.check_message(data, artifact)
    else:
        _check_message(document, artifact, keys)


def _read_bundle(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvidenceError("the bundle is not JSON", code="envelope-invalid") from error
    if not isinstance(document, dict) or document.get("mediaType") not in _MEDIA_TYPES:
        raise EvidenceError("not a Sigstore bundle of a known version", code="envelope-invalid")
    if ("dsseEnvelope" in document) == ("messageSignature" in document):
        raise EvidenceError("a bundle holds either an envelope or a signature", code="envelope-invalid")
    return document


def _open_envelope(
    data: bytes, document: Mapping[str, Any], keys: Sequence[bytes], keyless: KeylessTrust | None
) -> bytes:
    if keyless is not None:
        kind, payload = keyless.open_envelope(data)
    else:
        try:
            envelope = document["dsseEnvelope"]
            kind, payload = envelope["payloadType"], _decode(envelope["payload"])
            (signature,) = envelope["signatures"]
            signed = _decode(signature["sig"])
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError("the envelope is malformed", code="envelope-invalid") from error
        _check_signature(document, signed, encode_pae(str(kind), payload), keys)
    if kind != PAYLOAD_TYPE:
        raise EvidenceError(f"the envelope holds {kind}, no in-toto statement", code="envelope-invalid")
    return payload


def _check_subject(payload: bytes, artifact: bytes) -> None:
    wanted = sha256(artifact).hexdigest()
    try:
        statement = json.loads(payload)
        known = statement["_type"] in _STATEMENTS
        found = any(subject["digest"].get("sha256") == wanted for subject in statement["subject"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise EvidenceError("the signed statement is malformed", code="statement-invalid") from error
    if not known:
        raise EvidenceError("the signed statement is of an unknown version", code="statement-invalid")
    if not found:
        raise EvidenceError(f"the statement does not name sha256:{wanted}", code="subject-mismatch")


def _check_message(document: Mapping[str, Any], artifact: bytes, keys: Sequence[bytes]) -> None:
    try:
        message = document["messageSignature"]
        signature = _decode(message["signature"])
        digest = message.get("messageDigest")
        same = digest is None or (
            digest["algorithm"] == "SHA2_256" and _decode(digest["digest"]) == sha256(artifact).digest()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceError("the signature in the bundle is malformed", code="envelope-invalid") from error
    if not same:
        raise EvidenceError("the bundle names another artifact", code="subject-mismatch")
    _check_signature(document, signature, artifact, keys)


def _check_signature(
    document: Mapping[str, Any], signature: bytes, payload: bytes, keys: Sequence[bytes]
) -> None:
    material = document.get("verificationMaterial")
    if not isinstance(material, dict) or not isinstance(material.get("publicKey"), dict):
        raise EvidenceError(
            "the bundle is not signed by a key",
            remedy="give --trusted-root, --identity and --issuer to judge a certificate",
            code="signer-unknown",
        )
    trusted: list[PublicKey] = [read_public_key(pem) for pem in keys]
    if not any(key.verifies(signature, payload, strict=False) for key in trusted):
        raise EvidenceError("no trusted key signed this content", code="signature-invalid")


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
