"""Artifacts behind an fsspec URL (`memory://name`, `s3://bucket/prefix`): same names, same checks.

An object store shows an object whole or not at all, so there is no temporary name; what was written is
read back once, because not every back end checks a transfer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.artifacts.digest import digest_content, parse_digest
from maestro_dagster.artifacts.failure import corrupt, missing, unreadable
from maestro_dagster.artifacts.interface import Artifact, TreeEntry
from maestro_dagster.artifacts.tree import export_tree, parse_tree, put_tree, write_verified
from maestro_dagster.errors import StoreError


class RemoteStore:
    """An ArtifactStore on any file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise StoreError(
                f"the artifact store cannot be opened: {error}",
                place=url,
                remedy="check the setting `artifact_store`; some URLs need a package such as `s3fs`",
                code="store-unavailable",
            ) from error

    def put_bytes(self, data: bytes, media_type: str) -> Artifact:
        artifact = Artifact(digest_content(data), media_type, len(data))
        if self._holds(artifact.digest):
            return artifact
        try:
            path = self._path(artifact.digest)
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(path, data)
        except Exception as error:  # each back end raises errors of its own
            raise StoreError(
                f"an artifact cannot be written: {error}",
                place=self.url,
                remedy="check the address and the credentials of the artifact store",
                code="artifact-write",
            ) from error
        self.read(artifact.digest)
        return artifact

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        return [self.put_bytes(data, media_type) for data, media_type in contents]

    def put_file(self, path: Path, media_type: str) -> Artifact:
        return self.put_bytes(path.read_bytes(), media_type)

    def put_tree(self, folder: Path) -> Artifact:
        return put_tree(self, folder)

    def has(self, digest: str) -> bool:
        return bool(self._files.exists(self._path(digest)))

    def read(self, digest: str) -> bytes:
        data: Any
        path = self._path(digest)
        try:
            data = self._files.cat_file(path)
        except FileNotFoundError:
            raise missing(digest, self.url) from None
        except Exception as error:  # each back end raises errors of its own
            raise unreadable(digest, self.url, error) from error
        if not isinstance(data, bytes) or digest_content(data) != digest:
            raise corrupt(digest, self.url)
        return data

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]:
        return parse_tree(self.read(digest), digest)

    def export(self, artifact: Artifact, target: Path) -> None:
        if not export_tree(self, artifact, target):
            write_verified(self.chunks(artifact.digest), artifact.digest, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        yield self.read(digest)

    def _holds(self, digest: str) -> bool:
        """Whether an intact object is there; a damaged one is to be written again."""
        try:
            self.read(digest)
        except StoreError as error:
            if error.error_code in {"artifact-missing", "artifact-corrupt"}:
                return False
            raise
        return True

    def _path(self, digest: str) -> str:
        name = parse_digest(digest)
        return f"{self._root.rstrip('/')}/sha256/{name[:2]}/{name}"
