"""Artifacts in a local folder: `<root>/sha256/ab/<hex>`, one read-only file per content.

Written so that a file which can be seen is whole and survives a power cut: a temporary file beside its
target, fsync, rename, fsync of the folder. Many files share the folder's fsync.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from maestro_dagster.artifacts.digest import CHUNK, digest_content, parse_digest
from maestro_dagster.artifacts.failure import corrupt, missing, plain_errors, unreadable
from maestro_dagster.artifacts.interface import Artifact, TreeEntry
from maestro_dagster.artifacts.tree import export_tree, parse_tree, put_tree, write_verified

_OBJECT = re.compile(r"[0-9a-f]{64}")
_WHOLE = 1024 * 1024  # files up to this many bytes are read at once
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class LocalStore:
    """An ArtifactStore in a folder. Safe for several processes and threads at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._objects = str(self.root / "sha256")
        self._folders: set[str] = set()  # folders known to be durable
        self._durable: set[str] = set()  # objects that this process made or found durable

    def put_bytes(self, data: bytes, media_type: str) -> Artifact:
        return self.put_many(((data, media_type),))[0]

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        """Stores all contents at the price of one wait for the disk per folder."""
        artifacts = [Artifact(digest_content(data), kind, len(data)) for data, kind in contents]
        pending: dict[str, str] = {}
        with plain_errors(self.root):
            handles: list[int] = []
            try:
                for artifact, (data, _) in zip(artifacts, contents, strict=True):
                    target = self._path(artifact.digest)
                    if target in pending or self._is_whole(artifact.digest, artifact.size):
                        continue
                    self._make_folder(os.path.dirname(target))  # noqa: PTH120 - on the path of every step
                    pending[target] = temporary = _name_temporary(target)
                    handles.append(os.open(temporary, _NEW_FILE, 0o444))
                    _write(handles[-1], data)
                for handle in handles:
                    os.fsync(handle)
                _publish(pending)
            except BaseException:
                _remove(pending.values())
                raise
            finally:
                for handle in handles:
                    os.close(handle)
        self._durable.update(artifact.digest for artifact in artifacts)
        return artifacts

    def put_file(self, path: Path, media_type: str) -> Artifact:
        with plain_errors(path), path.open("rb") as source:
            if os.fstat(source.fileno()).st_size <= _WHOLE:
                return self.put_bytes(source.read(), media_type)
            self._make_folder(self._objects)
            temporary = _name_temporary(f"{self._objects}/new")
            try:
                digest, size = _copy(source.fileno(), temporary)
                if self._is_whole(digest, size):
                    _remove((temporary,))
                else:
                    target = self._path(digest)
                    self._make_folder(os.path.dirname(target))  # noqa: PTH120 - as above
                    _publish({target: temporary})
            except BaseException:
                _remove((temporary,))
                raise
        self._durable.add(digest)
        return Artifact(digest, media_type, size)

    def put_tree(self, folder: Path) -> Artifact:
        with plain_errors(folder):
            return put_tree(self, folder)

    def has(self, digest: str) -> bool:
        return os.path.isfile(self._path(digest))  # noqa: PTH113 - a text, not a Path

    def contents(self) -> Iterator[tuple[str, int]]:
        for path in Path(self._objects).glob("[0-9a-f][0-9a-f]/*"):
            if _OBJECT.fullmatch(path.name):
                yield "sha256:" + path.name, path.stat().st_size

    def read(self, digest: str) -> bytes:
        path = self._path(digest)
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise missing(digest, self.root) from None
        except OSError as error:
            raise unreadable(digest, path, error) from error
        if digest_content(data) != digest:
            raise corrupt(digest, path)
        return data

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]:
        return parse_tree(self.read(digest), digest)

    def export(self, artifact: Artifact, target: Path) -> None:
        with plain_errors(target):
            if not export_tree(self, artifact, target):
                write_verified(self.chunks(artifact.digest), artifact.digest, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The content in pieces, not yet checked: `write_verified` checks the whole."""
        path = self._path(digest)
        try:
            with Path(path).open("rb") as source:
                while piece := source.read(CHUNK):
                    yield piece
        except FileNotFoundError:
            raise missing(digest, self.root) from None
        except OSError as error:
            raise unreadable(digest, path, error) from error

    def _path(self, digest: str) -> str:
        name = parse_digest(digest)
        return f"{self._objects}/{name[:2]}/{name}"

    def _is_whole(self, digest: str, size: int) -> bool:
        """Whether the object is there, intact and durable; a damaged one is to be written again."""
        path = self._path(digest)
        try:
            if os.stat(path).st_size != size:  # noqa: PTH116 - on the path of every step
                return False
            found = hashlib.sha256()
            with Path(path).open("rb") as source:
                while piece := source.read(CHUNK):
                    found.update(piece)
        except OSError:
            return False
        if "sha256:" + found.hexdigest() != digest:
            return False
        if digest not in self._durable:
            # Another process may have renamed it a moment ago and not yet waited for the disk.
            _sync(path)
            _sync(os.path.dirname(path))  # noqa: PTH120 - as above
        return True

    def _make_folder(self, folder: str) -> None:
        if folder in self._folders:
            return
        parent = folder[: folder.rindex("/")]
        try:
            os.mkdir(folder)  # noqa: PTH102 - on the path of every step
        except FileNotFoundError:
            self._make_folder(parent)
            self._make_folder(folder)
        except FileExistsError:
            pass  # made a moment ago, perhaps, and not yet durable
        _sync(parent)
        self._folders.add(folder)


def _name_temporary(target: str) -> str:
    folder = target[: target.rindex("/")]
    return f"{folder}/.{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _copy(source: int, temporary: str) -> tuple[str, int]:
    """Copies an open file and hashes on the way: a file that changes meanwhile stays consistent. Synced."""
    found = hashlib.sha256()
    size = 0
    handle = os.open(temporary, _NEW_FILE, 0o444)
    try:
        while piece := os.read(source, CHUNK):
            found.update(piece)
            size += len(piece)
            _write(handle, piece)
        os.fsync(handle)
    finally:
        os.close(handle)
    return "sha256:" + found.hexdigest(), size


def _publish(pending: dict[str, str]) -> None:
    """Renames synced temporary files to their targets, and waits until that is durable."""
    for target, temporary in pending.items():
        os.rename(temporary, target)  # noqa: PTH104 - on the path of every step
    for folder in {target[: target.rindex("/")] for target in pending}:
        _sync(folder)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
