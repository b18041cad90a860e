"""Where the newest value of a Python asset is, by key: a small file in the state folder.

Flow steps name Python assets under `assets:`; the engine reads them without Dagster.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StoreError

_FOLDER = "python-assets"


def write_pointer(home: Path, key: str, artifact: Artifact, partition: str | None) -> None:
    """Remembers the artifact as the newest value of the asset; atomic, for readers in other processes."""
    path = _path(home, key, partition)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    form = {"key": key, "partition": partition, "digest": artifact.digest, "size": artifact.size}
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(form | {"media_type": artifact.media_type}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_pointer(home: Path, key: str, partition: str | None) -> Artifact:
    """The newest value of the asset `a/b`. Raises StoreError `asset-missing`."""
    for path in (_path(home, key, partition), _path(home, key, None)):
        try:
            form = json.loads(path.read_text(encoding="utf-8"))
            return Artifact(form["digest"], form["media_type"], form["size"])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"the record of the asset {key} cannot be read: {error}",
                place=str(path),
                remedy=f"materialise the asset {key} again",
                code="asset-corrupt",
            ) from error
    raise StoreError(
        f"the Python asset {key} was never materialised into the artifact store",
        place=f"asset {key}",
        remedy='give it `io_manager_key="maestro_io"` and materialise it once',
        code="asset-missing",
    )


def _path(home: Path, key: str, partition: str | None) -> Path:
    name = hashlib.sha256(json.dumps([key, partition]).encode()).hexdigest()
    return home / _FOLDER / f"{name}.json"
