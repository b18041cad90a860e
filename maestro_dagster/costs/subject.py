"""Who is behind a surrogate: the only place that knows, and that can forget.

Usage events carry a surrogate, 128 random bits for a person and tenant that follow from nothing. The map
from people to surrogates is a small SQLite file; in it

    lookup   HMAC-SHA256 of tenant and identifier, under a key derived from the map's secret
    wrapped  the person's own AES-256 key, encrypted under another key derived from that secret
    sealed   the identifier, encrypted under the person's own key

so the file alone tells nothing, and neither does the secret alone (32 bytes, mode 0600, beside the signing
key). Forgetting removes the row with the person's key; no usage file is touched, no sum moves, and nobody,
with the secret or without, can tell any more whose usage it was.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from maestro_dagster.errors import CostError

PREDICATE_TYPE: Final = "urn:maestro:forgotten:v1"
_SECRET: Final = 32  # bytes
_NONCE: Final = 12  # bytes, of AES-GCM (NIST SP 800-38D)
_WAIT: Final = 10.0  # seconds for other writers
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS subject (
  lookup BLOB PRIMARY KEY, surrogate TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  wrapped BLOB NOT NULL, sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS subject_tenant ON subject (tenant);
CREATE TABLE IF NOT EXISTS forgotten (
  surrogate TEXT PRIMARY KEY, tenant TEXT NOT NULL, forgotten_at TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A person's surrogate of one tenant whose row is gone. `forgotten_at` is RFC 3339 UTC."""

    surrogate: str
    tenant: str
    forgotten_at: str
    reason: str


class SubjectMap:
    """The map in the file `path`, its secret in `secret`; both are made when the first person is met.

    Safe between threads and processes. Raises CostError: `subject-map` (file or secret cannot be used),
    `subject-secret-missing` (there are people in the map and no secret to know them by).
    """

    def __init__(self, path: Path, secret: Path) -> None:
        self.path = path
        self.secret = secret

    def surrogate_for(self, tenant: str, person: str) -> str:
        """The person's surrogate, 32 hexadecimal digits; made on first sight. Nobody has none."""
        identifier = fold_identifier(person)
        if not identifier:
            return ""
        lookup, wrap = self._keys(make=True)
        key = _lookup(lookup, tenant, identifier)
        with self._open() as connection:
            found = connection.execute("SELECT surrogate FROM subject WHERE lookup = ?", (key,)).fetchone()
            if found is not None:
                return str(found[0])
            row = (key, *_seal(wrap, tenant, identifier))
            connection.execute(
                "INSERT INTO subject (lookup, surrogate, tenant, wrapped, sealed) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (lookup) DO NOTHING",
                row,
            )
            again = connection.execute("SELECT surrogate FROM subject WHERE lookup = ?", (key,)).fetchone()
            return str(again[0])

    def find(self, person: str, tenant: str | None = None) -> tuple[tuple[str, str], ...]:
        """(tenant, surrogate) of the person, of one tenant or of all; nothing is made."""
        identifier = fold_identifier(person)
        if not identifier or not self.path.exists():
            return ()
        with self._open() as connection:
            tenants = [row[0] for row in connection.execute("SELECT DISTINCT tenant FROM subject")]
            if not tenants:
                return ()
            lookup, _ = self._keys(make=False)
            found = []
            for name in sorted(tenants):
                if tenant is None or name == tenant:
                    key = _lookup(lookup, name, identifier)
                    query = "SELECT tenant, surrogate FROM subject WHERE lookup = ?"
                    found += connection.execute(query, (key,)).fetchall()
        return tuple((str(name), str(surrogate)) for name, surrogate in found)

    def reveal(self, surrogate: str) -> str | None:
        """The identifier behind a surrogate, None when it is not known (any more)."""
        if not self.path.exists():
            return None
        with self._open() as connection:
            query = "SELECT tenant, wrapped, sealed FROM subject WHERE surrogate = ?"
            row = connection.execute(query, (surrogate,)).fetchone()
        if row is None:
            return None
        _, wrap = self._keys(make=False)
        return _unseal(wrap, surrogate, *row, place=str(self.path))

    def count(self) -> int:
        if not self.path.exists():
            return 0
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM subject").fetchone()[0])

    def forget(self, surrogates: Sequence[str], reason: str, now: str) -> tuple[Forgotten, ...]:
        """Destroys the rows of the surrogates and what the file still had of them; gives those it had.

        What was forgotten waits in the map for its proof (`waiting`, `settle`), so a crash loses none.
        Raises CostError (`subject-busy`) when a reader holds old pages: they are gone once this is repeated.
        """
        gone = []
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for surrogate in surrogates:
                query = "DELETE FROM subject WHERE surrogate = ? RETURNING tenant"
                row = connection.execute(query, (surrogate,)).fetchone()
                if row is not None:
                    gone.append(Forgotten(surrogate, str(row[0]), now, reason))
            connection.executemany(
                "INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?)",
                [(one.surrogate, one.tenant, one.forgotten_at, one.reason) for one in gone],
            )
            connection.execute("COMMIT")
            self._wipe(connection)
        return tuple(gone)

    def waiting(self) -> tuple[Forgotten, ...]:
        """What was forgotten and has no proof yet."""
        if not self.path.exists():
            return ()
        with self._open() as connection:
            query = "SELECT surrogate, tenant, forgotten_at, reason FROM forgotten ORDER BY 3, 1"
            return tuple(Forgotten(*row) for row in connection.execute(query))

    def settle(self, surrogates: Sequence[str]) -> None:
        """The proofs of these are safe."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "DELETE FROM forgotten WHERE surrogate = ?", [(one,) for one in surrogates]
            )
            connection.execute("COMMIT")

    def _wipe(self, connection: sqlite3.Connection) -> None:
        """`secure_delete` overwrites in the file; the log beside it has the old pages until it is cut."""
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise CostError(
                "the person is forgotten, but a reader of the subject map still holds the old pages",
                place=str(self.path),
                remedy="run the command again when the reader has ended",
                code="subject-busy",
            )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection: sqlite3.Connection | None = None
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.executescript(_SCHEMA)
            yield connection
        except (OSError, sqlite3.Error) as error:
            raise CostError(
                f"the subject map cannot be used: {error}",
                place=str(self.path),
                remedy="make the file readable and writable for the project's user, or restore it",
                code="subject-map",
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _keys(self, *, make: bool) -> tuple[bytes, bytes]:
        """(for lookups, for wrapping keys), both derived from the secret."""
        secret = self._read_secret()
        if secret is None and (not make or self.count()):
            # Whoever met the first person since then made the secret before the row: look once more.
            secret = self._read_secret()
            if secret is None:
                raise CostError(
                    "the secret of the subject map is missing, so nobody in it can be found",
                    place=str(self.secret),
                    remedy="restore the file from the backup of the project's keys",
                    code="subject-secret-missing",
                )
        if secret is None:
            secret = self._make_secret()
        return _derive(secret, b"maestro subject lookup"), _derive(secret, b"maestro subject wrap")

    def _read_secret(self) -> bytes | None:
        try:
            secret = self.secret.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._spoilt(str(error.strerror)) from error
        if len(secret) != _SECRET:
            raise self._spoilt(f"it has {len(secret)} bytes, not {_SECRET}")
        return secret

    def _make_secret(self) -> bytes:
        """Whole or not at all, and by one process only: the first link wins, the others read it."""
        draft = self.secret.with_name(f".{self.secret.name}-{secrets.token_hex(8)}")
        try:
            self.secret.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_SECRET))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, self.secret)
        except OSError as error:
            raise self._spoilt(str(error.strerror)) from error
        finally:
            draft.unlink(missing_ok=True)
        return self.secret.read_bytes()

    def _spoilt(self, why: str) -> CostError:
        return CostError(
            f"the secret of the subject map cannot be used: {why}",
            place=str(self.secret),
            remedy="restore the file from the backup of the project's keys",
            code="subject-map",
        )


def fold_identifier(person: str) -> str:
    """One spelling of an identifier: of `Ada <ada@example.org>` the address; without case and outer space."""
    text = unicodedata.normalize("NFC", person).strip()
    if text.endswith(">") and "<" in text:
        text = text[text.rindex("<") + 1 : -1].strip() or text
    return text.casefold()


def describe_forgotten(gone: Forgotten) -> dict[str, Any]:
    """The in-toto Statement that a person's surrogate is nobody's any more; nothing in it is theirs."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": f"subject:{gone.surrogate}",
                "digest": {"sha256": sha256(gone.surrogate.encode()).hexdigest()},
            }
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "surrogate": gone.surrogate,
            "tenant": gone.tenant,
            "forgottenAt": gone.forgotten_at,
            "reason": gone.reason,
            "method": "the row with the person's key was overwritten and removed",
        },
    }


def _lookup(key: bytes, tenant: str, identifier: str) -> bytes:
    return hmac.digest(key, f"{tenant}\0{identifier}".encode(), "sha256")


def _derive(secret: bytes, purpose: bytes) -> bytes:
    """HKDF-Expand (RFC 5869) of one block; the secret is uniformly random, so nothing is extracted."""
    return hmac.digest(secret, purpose + b"\x01", "sha256")


def _seal(wrap: bytes, tenant: str, identifier: str) -> tuple[str, str, bytes, bytes]:
    """(surrogate, tenant, wrapped key, sealed identifier) of a new person."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    surrogate = secrets.token_hex(16)
    own = secrets.token_bytes(_SECRET)
    bound = f"{tenant}\0{surrogate}".encode()
    first, second = secrets.token_bytes(_NONCE), secrets.token_bytes(_NONCE)
    wrapped = first + AESGCM(wrap).encrypt(first, own, bound)
    return surrogate, tenant, wrapped, second + AESGCM(own).encrypt(second, identifier.encode(), bound)


def _unseal(wrap: bytes, surrogate: str, tenant: str, wrapped: bytes, sealed: bytes, *, place: str) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    bound = f"{tenant}\0{surrogate}".encode()
    try:
        own = AESGCM(wrap).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound)
        return AESGCM(own).decrypt(sealed[:_NONCE], sealed[_NONCE:], bound).decode()
    except (InvalidTag, ValueError) as error:
        raise CostError(
            "a row of the subject map does not belong to its secret",
            place=place,
            remedy="restore map and secret from the same backup",
            code="subject-map",
        ) from error
