"""Keys: made once by `maestro init`, kept in the key folder, never made by a run."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from maestro_dagster.errors import EvidenceError, KeyMissingError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE_NAME: Final = "maestro.pem"
PUBLIC_NAME: Final = "maestro.pub.pem"
ED25519: Final = "ed25519"
P256: Final = "ecdsa-p256-sha256"
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_PUBLIC_BODY: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----\s(.+?)-----END PUBLIC KEY-----", re.DOTALL)
_KEY_LIMIT: Final = 64 * 1024  # bytes; no key file is as large


class PublicKey:
    """The public half: checks signatures. Made by `read_public_key`."""

    def __init__(self, key: Ed25519PublicKey | EllipticCurvePublicKey) -> None:
        self._key = key

    @cached_property
    def pem(self) -> bytes:
        from cryptography.hazmat.primitives import serialization as form

        return self._key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def hint(self) -> str:
        """Base64 of the sha256 of the key's DER (SubjectPublicKeyInfo)."""
        from cryptography.hazmat.primitives import serialization as form

        der = self._key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(sha256(der).digest()).decode()

    @cached_property
    def algorithm(self) -> str:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return ED25519 if isinstance(self._key, Ed25519PublicKey) else P256

    def verifies(self, signature: bytes, payload: bytes, *, strict: bool = True) -> bool:
        """Strict: an ECDSA signature must be in the one form that our signer writes, DER with low s."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, payload)
                return True
            self._key.verify(signature, payload, ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return not strict or _lower_s(signature) == signature


class KeySigner:
    """Signs with a key held in memory. Implements `Signer`; both algorithms give the same bytes each time."""

    def __init__(self, key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = PublicKey(key.public_key())

    @property
    def algorithm(self) -> str:
        return self._public.algorithm

    @property
    def public_pem(self) -> bytes:
        return self._public.pem

    @property
    def hint(self) -> str:
        return self._public.hint

    def sign(self, payload: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(payload)
        # RFC 6979: the same run exports the same bytes under P-256 too.
        return _lower_s(self._key.sign(payload, ECDSA(hashes.SHA256(), deterministic_signing=True)))

    def __repr__(self) -> str:
        return f"KeySigner({self.algorithm}, {self.hint})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a signer is not pickled: the key stays in this process")


def make_key(folder: Path, algorithm: str = ED25519) -> bytes:
    """Makes the project's key (PKCS8 PEM, 0600, in a folder of 0700) and gives its public half as PEM.

    Never overwrites: raises EvidenceError `key-exists`.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key: Ed25519PrivateKey | EllipticCurvePrivateKey
    if algorithm == ED25519:
        key = ed25519.Ed25519PrivateKey.generate()
    elif algorithm == P256:
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        raise UsageError(
            f"unknown key algorithm {algorithm!r}", remedy=f"use {ED25519} or {P256}", code="key-algorithm"
        )
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = KeySigner(key).public_pem
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _write_new(folder / PRIVATE_NAME, private, 0o600)
        _keep_old_public(folder / PUBLIC_NAME)
        _write_new(folder / PUBLIC_NAME, public, 0o644)
    except FileExistsError as error:
        raise EvidenceError(
            "there is a key already, and a key is never overwritten",
            place=str(error.filename2 or error.filename or folder),
            remedy="keep it, or move it away and keep its public half: old bundles are verified with it",
            code="key-exists",
        ) from error
    except OSError as error:
        raise EvidenceError(
            f"the key cannot be written: {error.strerror}",
            place=str(folder),
            remedy="give a folder that this user may write to",
            code="key-unwritable",
        ) from error
    return public


def _keep_old_public(path: Path) -> None:
    """A public half whose private one is gone steps aside: what was signed with it is still verified."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    path.rename(path.with_name(f"maestro.{sha256(data).hexdigest()[:12]}.pub.pem"))


def load_signer(folder: Path) -> KeySigner:
    """The signer of a key folder.

    Raises KeyMissingError: `key-missing`, `key-exposed` (readable by others), `key-unusable`.
    """
    path = folder / PRIVATE_NAME
    return read_signer(_read_key(path, private=True), path)


def read_signer(data: bytes, path: Path) -> KeySigner:
    """The signer of a private key (PEM); `path` is where it was. Raises KeyMissingError (`key-unusable`)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise _spoilt(path, "it is not an unencrypted PKCS8 PEM file") from error
    except Exception as error:  # cryptography has an exception of its own for unsupported algorithms
        raise _spoilt(path, "its algorithm is not supported") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return KeySigner(key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return KeySigner(key)
    raise _spoilt(path, "it is neither an Ed25519 nor a P-256 key")


def list_hints(folder: Path) -> tuple[str, ...]:
    """The hints of all keys that a project has had, as far as their public halves are in its key folder.

    Without the library for keys: whoever opens a journal asks for them.
    """
    found = []
    for path in sorted(folder.glob("*.pub.pem")):
        try:
            body = _PUBLIC_BODY.search(path.read_bytes())
            found.append(
                base64.b64encode(sha256(base64.b64decode(body.group(1))).digest()).decode() if body else ""
            )
        except (OSError, ValueError):
            continue  # whoever signs or verifies with it says what is wrong with it
    if not (folder / PUBLIC_NAME).exists():
        with contextlib.suppress(KeyMissingError):
            found.append(load_signer(folder).hint)
    return tuple(dict.fromkeys(filter(None, found)))


def load_trusted(keys: Sequence[Path]) -> tuple[bytes, ...]:
    """The public keys (PEM) at these paths. Raises KeyMissingError for the first that cannot be used."""
    return tuple(read_public_key(_read_key(path, private=False), place=str(path)).pem for path in keys)


def read_public_key(pem: bytes, place: str = "") -> PublicKey:
    """Raises KeyMissingError `key-unusable` for anything but an Ed25519 or P-256 public key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in pem:
        raise _unusable(place, "it is a private key, and verifying needs the public half only")
    try:
        key = load_pem_public_key(pem)
    except Exception as error:  # ValueError, TypeError and one of cryptography's own: the remedy is the same
        raise _unusable(place, "it is not a public key in PEM") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return PublicKey(key)
    raise _unusable(place, "it is neither an Ed25519 nor a P-256 key")


def _spoilt(path: Path, why: str) -> KeyMissingError:
    return KeyMissingError(
        f"the project's key cannot be used: {why}",
        place=str(path),
        remedy="put it back from a backup; or move it away, keep its public half for what it signed, and "
        "make a new one with `maestro init .` in the project's folder",
        code="key-unusable",
    )


def _unusable(place: Path | str, why: str) -> KeyMissingError:
    return KeyMissingError(
        f"the key cannot be used: {why}",
        place=str(place),
        remedy=f"give a PEM file such as {PUBLIC_NAME} from the key folder of the project that signed",
        code="key-unusable",
    )


def _read_key(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and stat.S_IMODE(mode) & 0o077:
                raise KeyMissingError(
                    f"the key is readable by others (mode {stat.S_IMODE(mode):04o})",
                    place=str(path),
                    remedy=f"chmod 600 {path}, and make a new key if others may have read this one",
                    code="key-exposed",
                )
            return file.read(_KEY_LIMIT)
    except FileNotFoundError as error:
        remedy = (
            "make one with `maestro init .` in the project's folder"
            if private
            else "give the path of a public key with --key"
        )
        raise KeyMissingError("there is no key", place=str(path), remedy=remedy) from error
    except OSError as error:
        why = error.strerror or "it cannot be read"
        raise (_spoilt(path, why) if private else _unusable(path, why)) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    # Written aside and linked into place: a key is there whole or not at all, and never replaced.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lower_s(signature: bytes) -> bytes:
    # (r, s) and (r, n - s) both verify; only the smaller is accepted, or a signature could change unseen.
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, _P256_ORDER - s))
