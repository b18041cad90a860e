"""Bundles of other people's signers, judged by a key; certificates are judged in tests/conformance."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.attestation import verify_attestation
from maestro_dagster.evidence.dsse import PAYLOAD_TYPE, encode_pae
from maestro_dagster.evidence.key import KeySigner

ARTIFACT = b"the artifact"


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrap(content: dict[str, Any], version: str = "application/vnd.dev.sigstore.bundle.v0.3+json") -> bytes:
    material = {"publicKey": {"hint": "any"}, "tlogEntries": []}
    return json.dumps({"mediaType": version, "verificationMaterial": material} | content, indent=1).encode()


@pytest.fixture
def message(signer: KeySigner) -> dict[str, Any]:
    digest = {"algorithm": "SHA2_256", "digest": encode(sha256(ARTIFACT).digest())}
    return {"messageSignature": {"messageDigest": digest, "signature": encode(signer.sign(ARTIFACT))}}


@pytest.fixture
def envelope(signer: KeySigner) -> Callable[..., dict[str, Any]]:
    def make(kind: str = PAYLOAD_TYPE, **changes: Any) -> dict[str, Any]:
        subject = [{"name": "a", "digest": {"sha256": sha256(ARTIFACT).hexdigest()}}]
        statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": subject, "predicateType": "x"}
        payload = json.dumps(statement | changes).encode()
        signature = signer.sign(encode_pae(kind, payload))
        return {
            "dsseEnvelope": {
                "payload": encode(payload),
                "payloadType": kind,
                "signatures": [{"sig": encode(signature)}],
            }
        }

    return make


def code_of(data: bytes, *keys: bytes) -> str | None:
    try:
        verify_attestation(data, ARTIFACT, keys=keys)
    except EvidenceError as error:
        return error.error_code
    return None


def test_a_signed_message(message: dict[str, Any], signer: KeySigner, stranger: KeySigner) -> None:
    own = signer.public_pem
    assert code_of(wrap(message), own) is None
    assert code_of(wrap(message), stranger.public_pem, own) is None
    assert code_of(wrap(message), stranger.public_pem) == "signature-invalid"
    assert code_of(wrap(message, "application/vnd.dev.sigstore.bundle.v9+json"), own) == "envelope-invalid"
    message["messageSignature"]["messageDigest"]["digest"] = encode(sha256(b"other").digest())
    assert code_of(wrap(message), own) == "subject-mismatch"
    message["messageSignature"]["messageDigest"] = 7
    assert code_of(wrap(message), own) == "envelope-invalid"
    with pytest.raises(KeyMissingError):
        verify_attestation(wrap(message), ARTIFACT)


def test_a_signed_statement(envelope: Callable[..., dict[str, Any]], signer: KeySigner) -> None:
    own = signer.public_pem
    assert code_of(wrap(envelope()), own) is None
    assert code_of(wrap(envelope(subject=[])), own) == "subject-mismatch"
    assert code_of(wrap(envelope(subject=7)), own) == "statement-invalid"
    assert code_of(wrap(envelope(_type="other")), own) == "statement-invalid"
    assert code_of(wrap(envelope(kind="text/plain")), own) == "envelope-invalid"
    twice = envelope()
    twice["dsseEnvelope"]["signatures"] *= 2
    assert code_of(wrap(twice), own) == "envelope-invalid"


def test_what_is_no_bundle(message: dict[str, Any], envelope: Callable[..., Any], signer: KeySigner) -> None:
    own = signer.public_pem
    for data in (b"", b"[]", b"{}", b"[" * 100_000, wrap({}), wrap(message | envelope())):
        assert code_of(data, own) == "envelope-invalid"
    certificate = {"verificationMaterial": {"certificate": {"rawBytes": "AA=="}}}
    assert code_of(wrap(message | certificate), own) == "signer-unknown"
