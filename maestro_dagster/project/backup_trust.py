"""Which backup is meant, and whose signature on it is believed: never that of a key it brings unsealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.artifacts.interface import ArtifactStore
from maestro_dagster.errors import EvidenceError, KeyMissingError, ProjectError
from maestro_dagster.evidence.dsse import read_envelope
from maestro_dagster.evidence.key import PRIVATE_NAME, PUBLIC_NAME, load_trusted, read_signer
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.evidence.verify import VerifyReport, verify_bundle
from maestro_dagster.objects.bucket import hide_password
from maestro_dagster.project.backup_object import of_statement
from maestro_dagster.project.backup_source import SECRET_FOLDERS
from maestro_dagster.project.backup_statement import Manifest, open_statement, read_manifest, read_predicate
from maestro_dagster.project.backup_target import open_statements
from maestro_dagster.project.root import Project
from maestro_dagster.project.seal import open_sealed


@dataclass(frozen=True, slots=True)
class OpenedBackup:
    """A backup that somebody trusted signed. `sealed`: what its passphrase opened, None without one."""

    manifest: Manifest
    trusted: tuple[bytes, ...]
    sealed: dict[str, bytes] | None


def open_backup(
    project: Project,
    target: str,
    store: ArtifactStore,
    backup: str | None,
    *,
    keys: Sequence[Path],
    passphrase: str | None,
    prefer: str | None = None,
) -> OpenedBackup:
    """The backup that `read_newest` finds. Raises as it does, KeyMissingError, EvidenceError, StoreError."""
    signed = read_newest(target, backup, prefer=prefer)
    sealed = open_keys(store, signed, passphrase)
    trusted = list_trusted(project, keys, sealed)
    about = believe(target, signed, trusted)
    return OpenedBackup(read_manifest(store.read(about["manifest"]), about), trusted, sealed)


def verify_receipt(data: bytes, run_id: str, keys: Sequence[bytes], backup: str) -> VerifyReport:
    """Of the bundle that a backup has of a run. Raises EvidenceError (`receipt-refused`)."""
    report = verify_bundle(data, keys)
    if not report.ok or report.run_id != run_id:
        why = "; ".join(map(str, report.problems[:3])) or f"it is of the run {report.run_id}"
        raise EvidenceError(
            f"the receipt of the run {run_id} does not verify: {why}",
            place=f"backup {backup}",
            remedy="take an older backup with --backup, or give the key that signed it with --key",
            code="receipt-refused",
        )
    return report


def read_newest(target: str, backup: str | None, *, prefer: str | None = None) -> bytes:
    """The statement of a backup; where none is named, of the preferred one if it is there, else the newest.

    Whoever may write to the target may also copy an old statement to a new name, so the name has to be the
    signed one. Raises ProjectError (`backup-missing`, `backup-malformed`).
    """
    statements = open_statements(target)
    if backup is None:
        found = statements.ids()
        backup = prefer if prefer in found else next(reversed(found), None)
    if backup is None:
        statements.require_bucket()
        raise ProjectError(
            "there is no backup in this place",
            place=hide_password(target),
            remedy="give the folder or URL that `maestro backup` was given",
            code="backup-missing",
        )
    signed = statements.read(backup)
    with of_statement(statements.place(backup)):
        named = read_predicate(read_envelope(signed).payload).get("id")
    if named != backup:
        raise ProjectError(
            "the statement is of another backup than its name says: somebody copied or renamed it",
            place=statements.place(backup),
            remedy="find out who writes there; take a backup whose statement is its own with --backup",
            code="backup-malformed",
        )
    return signed


def believe(target: str, signed: bytes, trusted: Sequence[bytes]) -> dict[str, Any]:
    """The predicate of a statement that somebody trusted signed. Raises EvidenceError."""
    backup = str(read_predicate(read_envelope(signed).payload).get("id"))
    with of_statement(open_statements(target).place(backup)):
        return open_statement(signed, KeyTrust(trusted))


def open_keys(store: ArtifactStore, signed: bytes, passphrase: str | None) -> dict[str, bytes] | None:
    """What the passphrase opens. The statement is not believed yet: a lock that opens proves itself."""
    sealed = read_predicate(read_envelope(signed).payload)["sealed"]
    if passphrase is None or sealed is None:
        return None
    files = open_sealed(store.read(sealed), passphrase)
    for name in files:
        parts = name.split("/")
        if parts[0] not in SECRET_FOLDERS or len(parts) < 2 or {"", ".", ".."} & set(parts):  # noqa: PLR2004
            raise ProjectError(
                f"the sealed keys hold {name[:80]!r}, which is no key", remedy="take another backup",
                code="seal-invalid",
            )  # fmt: skip
    return files


def list_trusted(
    project: Project, keys: Sequence[Path], sealed: dict[str, bytes] | None
) -> tuple[bytes, ...]:
    own = project.keys / PUBLIC_NAME
    named = [*keys, *(project.path(text) for text in project.settings.trusted_keys)]
    trusted = [*load_trusted([*named, *([own] if own.is_file() else [])])]
    if sealed is not None and (private := sealed.get(f"keys/{PRIVATE_NAME}")) is not None:
        trusted.append(read_signer(private, Path("keys") / PRIVATE_NAME).public_pem)
    if not trusted:
        raise KeyMissingError(
            "there is no key to verify the backup with, and none is ever taken from it unsealed",
            place=str(project.root),
            remedy="give the project's public key with --key, or the passphrase of the backup",
        )
    return tuple(trusted)
