"""What a backup holds, and the signature over it.

    <target>/sha256/ab/<hex>                 every file once, by its content; shared by all backups there
    <target>/backups/<id>.sigstore.json      signed: which object is the manifest of this backup

The manifest (RFC 8785 JSON, an object like the others) lists every file with its digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from maestro_dagster.errors import EvidenceError, ProjectError
from maestro_dagster.evidence.dsse import STATEMENT_TYPE, read_statement, sign_statement
from maestro_dagster.evidence.interface import Signer
from maestro_dagster.evidence.trust import Trust
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes

PREDICATE_TYPE: Final = "urn:maestro:backup:v1"
MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".sigstore.json"
Part = Literal["home", "artifacts", "evidence", "lake", "database"]
_PARTS: Final = frozenset(get_args(Part))
_ID: Final = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{6}")  # UTC with milliseconds: sorted, oldest first
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_ENTRIES: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `path` is relative to the part: to the state folder, to the lake; for artifacts it is the
    digest, for evidence the run, for the database the table. `size` is in bytes, `mode` as of chmod.
    """

    part: Part
    path: str
    digest: str
    size: int
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Manifest:
    """`left_out`: what of the project is not in the backup. `revision`: of the database's tables. `lost`:
    runs whose bundle was not there any more when the backup was made, with the digest in the journal.
    """

    id: str
    created_at: str  # RFC 3339, UTC
    project: str
    tenant: str
    release: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()
    sealed: str | None = None  # digest of the keys and secrets, locked with a passphrase
    revision: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # runs, bundles: as of the journal's moment
    lost: Mapping[str, str] = field(default_factory=dict)

    def part(self, name: Part) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.part == name)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    def encode(self) -> bytes:
        form = {"version": 1, **asdict(self)}
        if not self.lost:
            del form["lost"]  # as before there was such a thing: the digest of older manifests stays
        return canonical_json(form)

    def describe(self) -> dict[str, Any]:
        """The signed predicate: the manifest's digest, and what stands in a listing of backups."""
        lost = {"lost": sorted(self.lost)} if self.lost else {}
        return {
            **lost,
            "id": self.id,
            "created_at": self.created_at,
            "project": self.project,
            "tenant": self.tenant,
            "release": self.release,
            "files": len(self.entries),
            "bytes": str(self.size),
            "runs": self.counts.get("runs", 0),
            "bundles": self.counts.get("bundles", 0),
            "left_out": list(self.left_out),
            "sealed": self.sealed,
            "manifest": digest_bytes(self.encode()),
        }


def sign_manifest(manifest: Manifest, signer: Signer) -> bytes:
    """An in-toto Statement v1 about the manifest, in a Sigstore bundle."""
    about = manifest.describe()
    subject = {"name": MANIFEST, "digest": {"sha256": about["manifest"].removeprefix("sha256:")}}
    return sign_statement(
        {
            "_type": STATEMENT_TYPE,
            "subject": [subject],
            "predicateType": PREDICATE_TYPE,
            "predicate": about,
        },
        signer,
    )


def open_statement(data: bytes, trust: Trust) -> dict[str, Any]:
    """The predicate that somebody trusted signed. Raises EvidenceError."""
    return read_predicate(trust.open_statement(data))


def read_predicate(payload: bytes) -> dict[str, Any]:
    """The predicate of a payload. Raises EvidenceError (`statement-invalid`)."""
    statement = read_statement(payload, PREDICATE_TYPE)
    about: dict[str, Any] = statement["predicate"]
    digest, sealed = about.get("manifest"), about.get("sealed")
    known = (
        isinstance(digest, str)
        and _DIGEST.fullmatch(digest)
        and (sealed is None or (isinstance(sealed, str) and _DIGEST.fullmatch(sealed)))
        and statement["subject"] == [{"name": MANIFEST, "digest": {"sha256": digest.removeprefix("sha256:")}}]
    )
    if not known:
        raise EvidenceError("the signed statement is none of a backup", code="statement-invalid")
    return about


def read_manifest(data: bytes, about: Mapping[str, Any]) -> Manifest:
    """The manifest whose digest was signed. Raises ProjectError (`backup-malformed`)."""
    import json

    try:
        value = json.loads(data)
        if value.pop("version") != 1:
            raise _malformed("it is of another version")
        entries = tuple(Entry(**entry) for entry in value.pop("entries"))
        lost = {str(run_id): str(digest) for run_id, digest in value.pop("lost", {}).items()}
        manifest = Manifest(entries=entries, left_out=tuple(value.pop("left_out")), lost=lost, **value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _malformed("it is no manifest of a backup") from error
    if manifest.describe() != about:
        raise _malformed("it is not what its statement says")
    _check_entries(manifest)
    return manifest


def is_backup_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _check_entries(manifest: Manifest) -> None:
    if len(manifest.entries) > _MOST_ENTRIES:
        raise _malformed(f"it has more than {_MOST_ENTRIES} files")
    seen = {(entry.part, entry.path) for entry in manifest.entries}
    if len(seen) != len(manifest.entries):
        raise _malformed("a file stands in it twice")
    for entry in manifest.entries:
        parts = entry.path.split("/")
        inside = not any(part in {"", ".", ".."} for part in parts) and "\0" not in entry.path
        sized = type(entry.size) is int and entry.size >= 0 and type(entry.mode) is int
        if entry.part not in _PARTS or not inside or not sized or not _DIGEST.fullmatch(entry.digest):
            raise _malformed(f"the file {entry.path[:80]!r} has no place in a project")


def _malformed(what: str) -> ProjectError:
    return ProjectError(
        f"the manifest of the backup cannot be used: {what}",
        place=MANIFEST,
        remedy="take another backup, or the release of Maestro that made this one",
        code="backup-malformed",
    )
