"""Signed statements: in-toto Statement v1 in a DSSE envelope in a Sigstore bundle v0.3, signed by a key.

Other people's verifiers read this form (npm `@sigstore/verify`, sigstore-go, cosign with a key). Ours
has one spelling only: RFC 8785 JSON and canonical base64, so that no byte of it can change unseen.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.evidence.document import read_canonical
from maestro_dagster.evidence.interface import Signer
from maestro_dagster.manifest.canonical import canonical_json

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True, slots=True)
class Envelope:
    """`hint` names the key that claims to have signed: a help to find it, never a reason to trust it."""

    payload: bytes
    signature: bytes
    hint: str

    @property
    def signed_bytes(self) -> bytes:
        return encode_pae(PAYLOAD_TYPE, self.payload)


def encode_pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding of the DSSE protocol, version 1."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: dict[str, Any], signer: Signer) -> bytes:
    """The statement as a Sigstore bundle, ready to be written to a file."""
    payload = canonical_json(statement)
    signature = signer.sign(encode_pae(PAYLOAD_TYPE, payload))
    return write_envelope(Envelope(payload, signature, signer.hint))


def write_envelope(envelope: Envelope) -> bytes:
    return canonical_json(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": envelope.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(envelope.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": "", "sig": base64.b64encode(envelope.signature).decode()}],
            },
        }
    )


def read_envelope(data: bytes) -> Envelope:
    """Takes apart what `write_envelope` wrote; anything spelled otherwise is refused.

    Raises EvidenceError (`envelope-invalid`, `envelope-not-canonical`). Checks no signature.
    """
    try:
        document = json.loads(data)
        inner = document["dsseEnvelope"]
        envelope = Envelope(
            payload=base64.b64decode(inner["payload"], validate=True),
            signature=base64.b64decode(inner["signatures"][0]["sig"], validate=True),
            hint=document["verificationMaterial"]["publicKey"]["hint"],
        )
        again = write_envelope(envelope)
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        ManifestError,
    ) as error:
        raise EvidenceError(
            "not a key-signed Sigstore bundle of version 0.3", code="envelope-invalid"
        ) from error
    if again != data:
        raise EvidenceError("a signed statement is not in canonical form", code="envelope-not-canonical")
    return envelope


def read_statement(payload: bytes, predicate_type: str) -> dict[str, Any]:
    """The in-toto Statement of a payload whose signature was checked. Raises EvidenceError."""
    statement = read_canonical(payload, "a signed statement", code="statement")
    if (
        not isinstance(statement, dict)
        or set(statement) != {"_type", "subject", "predicateType", "predicate"}
        or statement["_type"] != STATEMENT_TYPE
        or statement["predicateType"] != predicate_type
        or not isinstance(statement["predicate"], dict)
        or not isinstance(statement["subject"], list)
    ):
        raise EvidenceError(f"not an in-toto statement of {predicate_type}", code="statement-invalid")
    return statement
