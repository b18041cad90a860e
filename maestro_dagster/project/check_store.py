"""Whether the places that runs write to can be reached: the settings `artifact_store`, `evidence`, `lake`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from maestro_dagster.project.root import Project

_PROBE = "maestro-doctor"  # nobody's name


class Answer(NamedTuple):
    """`remedy` is empty where the place can be reached."""

    fact: str
    remedy: str = ""


def ask_artifacts(project: Project) -> Answer:
    """Writes a few bytes: artifacts may be removed again. Raises StoreError."""
    from maestro_dagster.artifacts.store import open_store

    store = open_store(project.artifact_store)
    artifact = store.put_bytes(b"maestro doctor was here\n", "text/plain")
    store.read(artifact.digest)
    return Answer("artifacts can be stored and read back")


def ask_evidence(project: Project) -> Answer:
    """Writes nothing: a bucket may lock what it is given for years. Raises StoreError."""
    if project.evidence_url is None:
        return _ask_folder(project.evidence, "evidence")
    return _ask_bucket(project.evidence_url, "evidence")


def ask_lake(project: Project) -> Answer:
    """Writes nothing: whatever lies in the lake is read as usage. Raises StoreError."""
    return (_ask_bucket if "://" in project.lake else _ask_folder)(project.lake, "lake")


def _ask_bucket(url: str, setting: str) -> Answer:
    from maestro_dagster.objects.bucket import Bucket

    bucket = Bucket(url, setting=setting)
    bucket.stat(_PROBE)
    return Answer(f"{bucket.place()} answers")


def _ask_folder(folder: Path | str, setting: str) -> Answer:
    nearest = Path(folder)
    while not nearest.exists():
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Answer(f"{folder} can be written")
    return Answer(
        f"{nearest} cannot be written", f"give this user the right, or change the setting `{setting}`"
    )
