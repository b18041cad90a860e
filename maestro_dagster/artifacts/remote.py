"""Artifacts behind an fsspec URL (`memory://name`, `s3://bucket/prefix`): same names, same checks.

An object is created on condition that it does not exist, so two writers never tear one; large ones travel
in parts, without ever being held whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from maestro_dagster.artifacts.digest import CHUNK, digest_content, parse_digest
from maestro_dagster.artifacts.failure import corrupt, missing, plain_errors, unreadable
from maestro_dagster.artifacts.interface import Artifact, TreeEntry
from maestro_dagster.artifacts.tree import export_tree, parse_tree, put_tree, write_verified
from maestro_dagster.errors import StoreError
from maestro_dagster.objects.bucket import Bucket

T = TypeVar("T")

_OBJECT = re.compile(r"sha256/[0-9a-f]{2}/[0-9a-f]{64}")
_AT_ONCE = 8  # requests under way
_SMALL = 1024 * 1024  # bytes; a file of this size is read at once
_TRIES = 3  # another writer's damaged or vanished object is not met again and again


class RemoteStore:
    """An ArtifactStore on any file system that fsspec knows. Safe for several processes and threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._bucket = Bucket(url)

    def put_bytes(self, data: bytes, media_type: str) -> Artifact:
        artifact = Artifact(digest_content(data), media_type, len(data))
        self._put(artifact, lambda name: self._bucket.create(name, data))
        return artifact

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        """Several at once: an object store answers each after a while, and all of them in that while."""
        if len(contents) < 2:  # noqa: PLR2004 - one needs no company
            return [self.put_bytes(data, media_type) for data, media_type in contents]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="maestro-artifacts") as pool:
            return list(pool.map(lambda each: self.put_bytes(*each), contents))

    def put_file(self, path: Path, media_type: str) -> Artifact:
        """Reads the file twice, in pieces. Raises StoreError (`object-changed`) if it changes meanwhile."""
        with plain_errors(path):
            if path.stat().st_size <= _SMALL:
                return self.put_bytes(path.read_bytes(), media_type)
            found, size = sha256(), 0
            for piece in _pieces(path):
                found.update(piece)
                size += len(piece)
        artifact = Artifact("sha256:" + found.hexdigest(), media_type, size)
        self._put(
            artifact, lambda name: self._bucket.create_from(name, _pieces(path), size, found.hexdigest())
        )
        return artifact

    def put_tree(self, folder: Path) -> Artifact:
        with plain_errors(folder):
            return put_tree(self, folder)

    def has(self, digest: str) -> bool:
        return self._bucket.stat(_name(digest)) is not None

    def contents(self) -> Iterator[tuple[str, int]]:
        for name, stat in self._bucket.list("sha256").items():
            if _OBJECT.fullmatch(name):
                yield "sha256:" + name[-64:], stat.size

    def read(self, digest: str) -> bytes:
        name = _name(digest)
        data = self._reading(digest, lambda: self._bucket.read(name))
        if digest_content(data) != digest:
            raise corrupt(digest, self._bucket.place())
        return data

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]:
        return parse_tree(self.read(digest), digest)

    def export(self, artifact: Artifact, target: Path) -> None:
        with plain_errors(target):
            if not export_tree(self, artifact, target):
                write_verified(self.chunks(artifact.digest), artifact.digest, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The content in pieces, not yet checked: `write_verified` checks the whole."""
        pieces = self._bucket.chunks(_name(digest))
        while piece := self._reading(digest, lambda: next(pieces, None)):
            yield piece

    def _put(self, artifact: Artifact, create: Callable[[str], bool]) -> None:
        """Creates the object, unless an intact one is there; a damaged one makes room."""
        name = _name(artifact.digest)
        look = artifact.size > _SMALL  # a small one is sent at once: most are new, and asking costs more
        for _ in range(_TRIES):
            if look and self._holds(artifact):
                return
            look = True
            try:
                if create(name):
                    return
            except StoreError as error:
                if error.error_code != "store-unavailable":
                    raise
                raise _unwritten(error) from error
        raise corrupt(artifact.digest, self._bucket.place())

    def _holds(self, artifact: Artifact) -> bool:
        name = _name(artifact.digest)
        try:
            stat = self._bucket.stat(name)
        except StoreError as error:
            raise _unwritten(error) from error
        if stat is None:
            return False
        found = sha256()
        try:
            for piece in self.chunks(artifact.digest):
                found.update(piece)
        except StoreError as error:
            if error.error_code == "artifact-missing":  # taken away a moment ago
                return False
            raise
        if "sha256:" + found.hexdigest() == artifact.digest:
            return True
        self._bucket.remove(name)
        return False

    def _reading(self, digest: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except FileNotFoundError:
            raise missing(digest, self._bucket.place()) from None
        except StoreError as error:
            raise unreadable(digest, self._bucket.place(), error) from error


def _name(digest: str) -> str:
    name = parse_digest(digest)
    return f"sha256/{name[:2]}/{name}"


def _pieces(path: Path) -> Iterator[bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as source:
        while piece := source.read(CHUNK):
            yield piece


def _unwritten(error: StoreError) -> StoreError:
    return StoreError(
        f"an artifact cannot be written: {error.fact}",
        place=error.place,
        remedy=error.remedy,
        code="artifact-write",
    )
