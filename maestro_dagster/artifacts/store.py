"""Opens the artifact store that a setting names."""

from __future__ import annotations

from pathlib import Path

from maestro_dagster.artifacts.interface import ArtifactStore
from maestro_dagster.artifacts.local import LocalStore


def open_store(place: str | Path) -> ArtifactStore:
    """A store in a local folder, or behind an fsspec URL (`memory://x`, `s3://bucket/prefix`).

    Nothing is created until something is stored. Raises StoreError (`store-unavailable`).
    """
    text = str(place)
    if text.startswith("file://"):
        return LocalStore(Path(text.removeprefix("file://")))
    if "://" not in text:
        return LocalStore(Path(place))
    # fsspec takes a tenth of a second to import
    from maestro_dagster.artifacts.remote import RemoteStore

    return RemoteStore(text)
