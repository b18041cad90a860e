"""Signatures without a key of ours: a short-lived certificate for an identity, a log entry, a timestamp.

Judged by sigstore-python, offline, against a trusted root that the operator gives. An identity and its
issuer are always required: without them the bundle of any stranger would pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, TypeVar

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.document import read_canonical
from maestro_dagster.evidence.dsse import PAYLOAD_TYPE

if TYPE_CHECKING:
    from sigstore.models import Bundle
    from sigstore.verify.policy import Identity
    from sigstore.verify.verifier import Verifier

T = TypeVar("T")


class KeylessTrust:
    """Trusts what `identity`, vouched for by `issuer`, signed under the certificates of `trusted_root`.

    Implements `Trust`. Raises KeyMissingError when one of the three is missing, EvidenceError
    (`trusted-root-invalid`) when the root cannot be used.
    """

    def __init__(self, trusted_root: Path, identity: str, issuer: str) -> None:
        if not identity or not issuer:
            raise KeyMissingError(
                "a keyless signature can only be judged by an identity and its issuer",
                remedy="give both --identity and --issuer beside --trusted-root",
                code="identity-missing",
            )
        if not trusted_root.is_file():
            raise KeyMissingError(
                "there is no trusted root",
                place=str(trusted_root),
                remedy="give the trusted_root.json of the Sigstore instance with --trusted-root",
            )
        self._verifier, self._policy = _guard(
            lambda: _open_root(trusted_root, identity, issuer),
            "the trusted root cannot be used",
            "trusted-root-invalid",
        )

    def open_statement(self, data: bytes) -> bytes:
        """The payload of a canonically spelled bundle. Raises EvidenceError (`keyless-refused`, ...)."""
        read_canonical(data, "a signed statement", code="envelope")
        kind, payload = self.open_envelope(data)
        if kind != PAYLOAD_TYPE:
            raise EvidenceError(f"it signs {kind}, not an in-toto statement", code="envelope-invalid")
        return payload

    def open_envelope(self, data: bytes) -> tuple[str, bytes]:
        """(type, payload) of anybody's DSSE bundle. Raises EvidenceError `keyless-refused`."""
        return _guard(lambda: self._verifier.verify_dsse(_read(data), self._policy))

    def check_message(self, data: bytes, artifact: bytes) -> None:
        """Refuses anybody's bundle whose plain signature is not over `artifact`. Raises EvidenceError."""
        _guard(lambda: self._verifier.verify_artifact(artifact, _read(data), self._policy))

    def signer_line(self) -> str | None:
        return None


def _open_root(path: Path, identity: str, issuer: str) -> tuple[Verifier, Identity]:
    from sigstore.models import TrustedRoot
    from sigstore.verify.policy import Identity
    from sigstore.verify.verifier import Verifier

    with NamedTemporaryFile(suffix=".json") as file:  # the library reads roots from files only
        file.write(_include_ends(path.read_bytes()))
        file.flush()
        root = TrustedRoot.from_file(file.name)
    return Verifier(trusted_root=root), Identity(identity=identity, issuer=issuer)


def _include_ends(root: bytes) -> bytes:
    """The end of a timestamp authority's validity belongs to it; sigstore-python 4.5 leaves it out."""
    document = json.loads(root)
    for authority in document.get("timestampAuthorities", ()):
        if (end := authority.get("validFor", {}).get("end")) is not None:
            later = datetime.fromisoformat(end) + timedelta(microseconds=1)
            authority["validFor"]["end"] = later.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps(document).encode()


def _read(data: bytes) -> Bundle:
    from sigstore.models import Bundle

    return Bundle.from_json(data)


def _guard(
    judge: Callable[[], T], what: str = "the keyless signature is refused", code: str = "keyless-refused"
) -> T:
    """Hostile input meets several parsers here; whatever any of them raises is a refusal."""
    try:
        return judge()
    except Exception as error:
        why = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise EvidenceError(f"{what}: {why}", code=code) from error
