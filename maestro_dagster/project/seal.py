"""A few small files, locked with a passphrase: scrypt (RFC 7914) makes the key, AES-256-GCM (NIST SP 800-38D)
the lock. What was locked opens whole and unchanged, or not at all.

    {"cipher": "aes-256-gcm", "data": "..", "kdf": "scrypt", "n": 131072, "nonce": "..", "p": 1, "r": 8,
     "salt": "..", "version": 1}                                       RFC 8785 JSON, bytes in base64
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, ProjectError, UsageError
from maestro_dagster.evidence.document import read_canonical
from maestro_dagster.manifest.canonical import canonical_json

SHORTEST: Final = 12  # characters of a passphrase
_N: Final = 2**17
_R: Final = 8
_P: Final = 1
_MEMORY: Final = 256 * 1024 * 1024  # bytes that scrypt may take; it needs 128 * n * r
_FIELDS: Final = {"cipher", "data", "kdf", "n", "nonce", "p", "r", "salt", "version"}


def seal_files(files: Mapping[str, bytes], passphrase: str) -> bytes:
    """Raises UsageError (`passphrase-short`)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(passphrase) < SHORTEST:
        raise UsageError(
            f"the passphrase has fewer than {SHORTEST} characters",
            remedy="take several random words: whoever guesses it has the project's key",
            code="passphrase-short",
        )
    salt, nonce = os.urandom(16), os.urandom(12)
    clear = canonical_json({name: _text(data) for name, data in files.items()})
    head = {"cipher": "aes-256-gcm", "kdf": "scrypt", "n": _N, "p": _P, "r": _R, "version": 1}
    data = AESGCM(_derive(passphrase, salt)).encrypt(nonce, clear, canonical_json(head))
    return canonical_json({**head, "data": _text(data), "nonce": _text(nonce), "salt": _text(salt)})


def open_sealed(data: bytes, passphrase: str) -> dict[str, bytes]:
    """What `seal_files` was given. Raises ProjectError (`seal-invalid`, `passphrase-wrong`)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head, salt, nonce, locked = _parse(data)
    try:
        clear = AESGCM(_derive(passphrase, salt)).decrypt(nonce, locked, canonical_json(head))
    except InvalidTag:
        raise ProjectError(
            "the sealed keys do not open",
            place="the backup's keys",
            remedy="give the passphrase of the day of the backup; if it is the right one, they are damaged",
            code="passphrase-wrong",
        ) from None
    return {name: base64.b64decode(text) for name, text in json.loads(clear).items()}


def _parse(data: bytes) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    """Only what `seal_files` writes: other costs of scrypt would be a stranger's."""
    try:
        value = read_canonical(data, "the seal", code="seal")
        head = {name: value[name] for name in ("cipher", "kdf", "n", "p", "r", "version")}
        known = {"cipher": "aes-256-gcm", "kdf": "scrypt", "n": _N, "p": _P, "r": _R, "version": 1}
        salt, nonce, locked = (
            base64.b64decode(value[name], validate=True) for name in ("salt", "nonce", "data")
        )
        whole = set(value) == _FIELDS and head == known and (len(salt), len(nonce)) == (16, 12)
    except (EvidenceError, KeyError, TypeError, ValueError) as error:
        raise _invalid() from error
    if not whole:
        raise _invalid()
    return head, salt, nonce, locked


def _invalid() -> ProjectError:
    return ProjectError(
        "the sealed keys are none that this Maestro wrote",
        place="the backup's keys",
        remedy="take another backup",
        code="seal-invalid",
    )


def _derive(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
