"""The lake that a restore fills. One outside of the state folder is filled before anything takes its place:
what was laid there is taken away when the restore fails, and found again when it was killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.errors import StoreError
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.objects.bucket import Bucket
from maestro_dagster.project.backup_source import BINARY, open_source
from maestro_dagster.project.backup_statement import Entry
from maestro_dagster.project.restore_place import occupied


class LakeGoal:
    """`place` is a folder or a URL; `elsewhere` that it is not in the stage; `again` that an earlier restore
    of the same backup was stopped, and may have laid files there.
    """

    def __init__(self, store: ArtifactStore, place: str, *, elsewhere: bool, again: bool) -> None:
        self._store = store
        self._place = place
        self._elsewhere = elsewhere
        self._again = again
        self._laid: list[str] = []

    def refuse_occupied(self, names: Iterable[str]) -> None:
        """Empty, but for what a stopped restore laid. Raises ProjectError (`restore-occupied`)."""
        names = set(names)
        if (
            names
            and self._elsewhere
            and set(open_source(self._place).list()) - (names if self._again else set())
        ):
            raise occupied(self._place, "the lake is not empty")

    def lay(self, entry: Entry) -> None:
        """Raises StoreError, ProjectError (`restore-occupied`)."""
        if self._again and self._elsewhere and self._has(entry):
            self._laid.append(entry.path)
            return
        if "://" not in self._place:
            self._store.export(Artifact(entry.digest, BINARY, entry.size), Path(self._place) / entry.path)
        elif not Bucket(self._place, setting="lake").create_from(
            entry.path, self._store.chunks(entry.digest), entry.size, entry.digest.removeprefix("sha256:")
        ):
            raise occupied(f"{self._place}/{entry.path}", "the lake is not empty")
        self._laid.append(entry.path)

    def undo(self) -> None:
        """The next restore wants it as empty as this one found it."""
        for name in self._laid if self._elsewhere else ():
            with suppress(OSError, StoreError):
                if "://" in self._place:
                    Bucket(self._place, setting="lake").remove(name)
                else:
                    (Path(self._place) / name).unlink(missing_ok=True)

    def _has(self, entry: Entry) -> bool:
        try:
            if "://" in self._place:
                pieces = list(Bucket(self._place, setting="lake").chunks(entry.path))
            else:
                pieces = [(Path(self._place) / entry.path).read_bytes()]
        except FileNotFoundError:
            return False
        return digest_bytes(b"".join(pieces)) == entry.digest
