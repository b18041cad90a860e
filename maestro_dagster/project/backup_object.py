"""The objects of a target, with errors that speak of the backup: who reads one has no store to repair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore, TreeEntry
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import EvidenceError, MaestroError, ProjectError, StoreError
from maestro_dagster.objects.bucket import hide_password
from maestro_dagster.project.backup_statement import Manifest
from maestro_dagster.project.backup_target import LISTING, check_target

OLDER = f"take an older backup with --backup; {LISTING}"
_DAMAGE = {
    "artifact-missing": "the backup's object {} is missing",
    "artifact-corrupt": "the backup's object {} is damaged",
}
_PLACE = frozenset({"store-unavailable", "artifact-unreadable", "artifact-write"})


class BackupObjects:
    """An ArtifactStore. Raises StoreError as one, with places and remedies that fit a backup."""

    def __init__(self, target: str) -> None:
        check_target(target)
        self._place = hide_password(target)
        self._names: dict[str, str] = {}
        with self._told():
            self._store: ArtifactStore = open_store(target)

    def know(self, manifest: Manifest) -> None:
        """From here on an object is told by the backup's file that it is."""
        self._names = {
            entry.digest: f"backup {manifest.id}, {name_file(entry.part, entry.path)}"
            for entry in manifest.entries
        }

    def put_bytes(self, data: bytes, media_type: str) -> Artifact:
        with self._told():
            return self._store.put_bytes(data, media_type)

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        with self._told():
            return self._store.put_many(contents)

    def put_file(self, path: Path, media_type: str) -> Artifact:
        with self._told():
            return self._store.put_file(path, media_type)

    def put_tree(self, folder: Path) -> Artifact:
        with self._told():
            return self._store.put_tree(folder)

    def has(self, digest: str) -> bool:
        with self._told(digest):
            return self._store.has(digest)

    def contents(self) -> Iterator[tuple[str, int]]:
        with self._told():
            yield from self._store.contents()

    def chunks(self, digest: str) -> Iterator[bytes]:
        with self._told(digest):
            yield from self._store.chunks(digest)

    def read(self, digest: str) -> bytes:
        with self._told(digest):
            return self._store.read(digest)

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]:
        with self._told(digest):
            return self._store.read_tree(digest)

    def export(self, artifact: Artifact, target: Path) -> None:
        with self._told(artifact.digest, target):
            self._store.export(artifact, target)

    @contextmanager
    def _told(self, digest: str = "", goal: Path | None = None) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            code = error.error_code
            if code in _DAMAGE:
                place = self._names.get(digest, self._place)
                raise StoreError(
                    _DAMAGE[code].format(digest), place=place, remedy=OLDER, code=code
                ) from error
            # With a goal it is the project's disk that cannot be written, and the error says so.
            if code in _PLACE and (goal is None or code != "artifact-write"):
                raise StoreError(
                    error.fact,
                    place=error.place,
                    remedy="check TARGET: its address or folder, the rights, the credentials, the network",
                    code=code,
                ) from error
            raise


def name_file(part: str, path: str) -> str:
    """A file of a backup for people: it lies nowhere under this name."""
    return f"{part} {path}"


@contextmanager
def of_statement(place: str) -> Iterator[None]:
    """What is wrong with the statement of a backup is told with its file. Raises EvidenceError."""
    try:
        yield
    except EvidenceError as error:
        remedy = OLDER
        if error.error_code == "signer-unknown":
            remedy = (
                "give the public key that signed it with --key; if it is nobody's that you know, " + OLDER
            )
        raise EvidenceError(error.fact, place=place, remedy=remedy, code=error.error_code) from error


@contextmanager
def of_file(place: str) -> Iterator[None]:
    """A database of a backup that is damaged: what was looked at is a copy that is gone by now."""
    try:
        yield
    except ProjectError as error:
        raise ProjectError(
            error.fact.replace(
                "a database of the project cannot be copied", "a database of the backup is damaged"
            ),
            place=place,
            remedy=OLDER,
            code=error.error_code,
        ) from error


@contextmanager
def plain_full(command: str) -> Iterator[None]:
    """A full disk: no run was under way, the command is. Raises MaestroError (`disk-full`)."""
    from maestro_dagster.engine.disk import CODE, find_full_disk

    try:
        yield
    except Exception as error:
        full = find_full_disk(error)
        if full is None:
            raise
        raise MaestroError(
            "the disk is full",
            place=full.place,
            remedy=f"free some space, then run the same `{command}` again; nothing half-written stays",
            code=CODE,
        ) from error
