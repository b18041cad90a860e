"""Artifacts in a local folder: `<root>/sha256/ab/<hex>`, one read-only file per content.

Written so that a file which can be seen is whole and survives a power cut: a temporary file beside its
target, fsync, rename, fsync of the folder. Many files share the folder's fsync.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maestro_dagster.artifacts.digest import CHUNK, digest_content, parse_digest
from maestro_dagster.artifacts.interface import Artifact, TreeEntry
from maestro_dagster.artifacts.tree import export_tree, parse_tree, put_tree, write_verified
from maestro_dagster.errors import StoreError

_WHOLE = 1024 * 1024  # files up to this many bytes are read at once
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class LocalStore:
    """An ArtifactStore in a folder. Safe for several processes and threads at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "sha256"
        self._shards: set[str] = set()  # folders known to be durable
        self._durable: set[str] = set()  # objects that this process made or found durable

    def put_bytes(self, data: bytes, media_type: str) -> Artifact:
        return self.put_many(((data, media_type),))[0]

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        """Stores all contents at the price of one wait for the disk per folder."""
        artifacts = [Artifact(digest_content(data), kind, len(data)) for data, kind in contents]
        pending: dict[Path, Path] = {}
        with _plain_errors(self.root):
            try:
                for artifact, (data, _) in zip(artifacts, contents, strict=True):
                    target = self._path(artifact.digest)
                    if target not in pending and not self._is_whole(artifact.digest, artifact.size):
                        pending[target] = self._write_temporary(target.parent, data)
                self._publish(pending)
            except BaseException:
                _remove(pending.values())
                raise
        self._durable.update(artifact.digest for artifact in artifacts)
        return artifacts

    def put_file(self, path: Path, media_type: str) -> Artifact:
        with _plain_errors(path), path.open("rb") as source:
            if os.fstat(source.fileno()).st_size <= _WHOLE:
                return self.put_bytes(source.read(), media_type)
            self._make_folder(self._objects)
            temporary = _temporary(self._objects)
            try:
                digest, size = _copy(source.fileno(), temporary)
                if self._is_whole(digest, size):
                    temporary.unlink()
                else:
                    target = self._path(digest)
                    self._make_folder(target.parent)
                    self._publish({target: temporary})
            except BaseException:
                _remove((temporary,))
                raise
        self._durable.add(digest)
        return Artifact(digest, media_type, size)

    def put_tree(self, folder: Path) -> Artifact:
        return put_tree(self, folder)

    def has(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def read(self, digest: str) -> bytes:
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _missing(digest, self.root) from None
        except OSError as error:
            raise _unreadable(digest, path, error) from error
        if digest_content(data) != digest:
            raise corrupt(digest, str(path))
        return data

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]:
        return parse_tree(self.read(digest), digest)

    def export(self, artifact: Artifact, target: Path) -> None:
        if not export_tree(self, artifact, target):
            write_verified(self.chunks(artifact.digest), artifact.digest, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The content in pieces, not yet checked: `write_verified` checks the whole."""
        path = self._path(digest)
        try:
            with path.open("rb") as source:
                while piece := source.read(CHUNK):
                    yield piece
        except FileNotFoundError:
            raise _missing(digest, self.root) from None
        except OSError as error:
            raise _unreadable(digest, path, error) from error

    def _path(self, digest: str) -> Path:
        name = parse_digest(digest)
        return self._objects / name[:2] / name

    def _is_whole(self, digest: str, size: int) -> bool:
        """Whether the object is there, intact and durable; a damaged one is to be written again."""
        path = self._path(digest)
        try:
            if path.stat().st_size != size:
                return False
            found = hashlib.sha256()
            with path.open("rb") as source:
                while piece := source.read(CHUNK):
                    found.update(piece)
        except OSError:
            return False
        if "sha256:" + found.hexdigest() != digest:
            return False
        if digest not in self._durable:
            # Another process may have renamed it a moment ago and not yet waited for the disk.
            _sync(path)
            _sync(path.parent)
        return True

    def _write_temporary(self, folder: Path, data: bytes) -> Path:
        self._make_folder(folder)
        temporary = _temporary(folder)
        handle = os.open(temporary, _NEW_FILE, 0o444)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        except BaseException:
            _remove((temporary,))
            raise
        finally:
            os.close(handle)
        return temporary

    def _publish(self, pending: dict[Path, Path]) -> None:
        for temporary in pending.values():
            _sync(temporary)
        for target, temporary in pending.items():
            temporary.rename(target)
        for folder in {target.parent for target in pending}:
            _sync(folder)

    def _make_folder(self, folder: Path) -> None:
        if folder.name in self._shards:
            return
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            _sync(place.parent)
        self._shards.add(folder.name)


def _temporary(folder: Path) -> Path:
    return folder / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _copy(source: int, temporary: Path) -> tuple[str, int]:
    """Copies an open file and hashes on the way, so that a file that changes meanwhile stays consistent."""
    found = hashlib.sha256()
    size = 0
    with os.fdopen(os.open(temporary, _NEW_FILE, 0o444), "wb") as sink:
        while piece := os.read(source, CHUNK):
            found.update(piece)
            size += len(piece)
            sink.write(piece)
    return "sha256:" + found.hexdigest(), size


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(paths: object) -> None:
    for path in paths:  # type: ignore[attr-defined]
        path.unlink(missing_ok=True)


@contextmanager
def _plain_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreError(
                "the disk is full, the artifact was not stored",
                place=str(place),
                remedy="free some space, then run `maestro retry`; nothing half-written is left behind",
                code="disk-full",
            ) from error
        raise StoreError(
            f"an artifact cannot be written: {error.strerror}",
            place=str(error.filename or place),
            remedy="check the folder's owner and mode",
            code="artifact-write",
        ) from error


def _missing(digest: str, root: Path) -> StoreError:
    return StoreError(
        f"artifact {digest} is not in the store",
        place=str(root),
        remedy="run the step that made it again, or restore the folder from a backup",
        code="artifact-missing",
    )


def _unreadable(digest: str, path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"artifact {digest} cannot be read: {error.strerror}",
        place=str(path),
        remedy="check the folder's owner and mode",
        code="artifact-unreadable",
    )


def corrupt(digest: str, place: str) -> StoreError:
    return StoreError(
        f"artifact {digest} does not have the content that its name promises",
        place=place,
        remedy="remove the file and run the step that made it again; check the disk",
        code="artifact-corrupt",
    )
