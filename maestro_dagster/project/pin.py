"""Digests of what decides in a project: its settings, policies and resources. They go into the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from maestro_dagster.errors import ProjectError

_PINNED = (
    "pyproject.toml",
    "policies/*/*.rego",
    "policies/*/data.json",
    "resources/*.yaml",
    "resources/prices/*.json",
    "resources/*.py",
)


class ProjectPins(Mapping[str, str]):
    """Path below the root -> `sha256:<hex>`, read anew each time: a loop outlives many edits."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __iter__(self) -> Iterator[str]:
        found = {path for pattern in _PINNED for path in self._root.glob(pattern) if path.is_file()}
        return iter(sorted(path.relative_to(self._root).as_posix() for path in found))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> str:
        return digest_file(self._root / name)


def digest_file(path: Path) -> str:
    """`sha256:<hex>` of a file. Raises ProjectError (`file-unreadable`)."""
    try:
        return f"sha256:{sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise ProjectError(
            f"a file of the project cannot be read: {error.strerror}",
            place=str(path),
            remedy="make it readable",
            code="file-unreadable",
        ) from error
