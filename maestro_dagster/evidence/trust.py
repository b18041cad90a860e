"""Whom a verifier believes: keys that were handed in, never one found in what is being verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.dsse import read_envelope
from maestro_dagster.evidence.key import PublicKey, read_public_key


class Trust(Protocol):
    """Opens signed statements. One instance judges one bundle: all of it must come from one signer."""

    def open_statement(self, data: bytes) -> bytes:
        """The payload of a Sigstore bundle signed by somebody trusted. Raises EvidenceError."""

    def signer_line(self) -> str | None:
        """What key-hint.txt must say of the signer of the statement opened first, None for anything."""


class KeyTrust:
    """Trusts the given public keys (PEM). Raises KeyMissingError when there are none."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise KeyMissingError(
                "there is no key to verify with, and none is ever taken from the bundle",
                remedy="give the public key of the project that signed with --key",
            )
        self._keys = {key.hint: key for key in map(read_public_key, keys)}
        self._signer: PublicKey | None = None

    def open_statement(self, data: bytes) -> bytes:
        """Raises EvidenceError: `signer-unknown`, `signature-invalid`, `signer-changed`, `envelope-*`."""
        envelope = read_envelope(data)
        key = self._keys.get(envelope.hint)
        if key is None:
            raise EvidenceError(
                f"signed by the key {envelope.hint}, which is not among the trusted ones",
                code="signer-unknown",
            )
        if not key.verifies(envelope.signature, envelope.signed_bytes):
            raise EvidenceError("the signature does not belong to this content", code="signature-invalid")
        if self._signer is None:
            self._signer = key
        if self._signer.hint != key.hint:
            raise EvidenceError("signed by another key than the receipt", code="signer-changed")
        return envelope.payload

    def signer_line(self) -> str | None:
        return f"{self._signer.algorithm} {self._signer.hint}" if self._signer else None
