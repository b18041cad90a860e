"""What the other rooms and the steps see of the artifact store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TREE_MEDIA_TYPE = "application/vnd.maestro.tree.v1+json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Content addressed by its sha256. `digest` is `sha256:<64 hex>`, `size` is in bytes.

    A folder is an artifact too: its content is a tree (TREE_MEDIA_TYPE), canonical JSON that
    names each file's path, digest, size and mode; the files are objects of their own.
    """

    digest: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class TreeEntry:
    path: str  # relative, "/"-separated, never "..", never absolute
    digest: str
    size: int
    executable: bool


class ArtifactStore(Protocol):
    def put_bytes(self, data: bytes, media_type: str) -> Artifact: ...

    def put_many(self, contents: Sequence[tuple[bytes, str]]) -> list[Artifact]:
        """Stores (content, media type) pairs at the price of about one wait for the disk."""

    def put_file(self, path: Path, media_type: str) -> Artifact: ...

    def put_tree(self, folder: Path) -> Artifact:
        """Stores every regular file below `folder`; a symbolic link that leaves it is refused."""

    def has(self, digest: str) -> bool: ...

    def contents(self) -> Iterator[tuple[str, int]]:
        """(digest, size in bytes) of every object, in no order; their content is not looked at."""

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The content in pieces, not checked. Raises StoreError (`artifact-missing`)."""

    def read(self, digest: str) -> bytes:
        """The content, its sha256 checked. Raises StoreError (`artifact-missing`, `artifact-corrupt`)."""

    def read_tree(self, digest: str) -> tuple[TreeEntry, ...]: ...

    def export(self, artifact: Artifact, target: Path) -> None:
        """Writes a file to `target`, or a tree below `target`; every byte is checked on the way."""
