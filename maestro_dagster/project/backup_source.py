"""The files of a running project, read in a way that tears none of them.

Files that only grow are cut behind their last whole line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.errors import ProjectError
from maestro_dagster.project.snapshot import BESIDE, SUFFIXES
from maestro_dagster.project.unfinished import STAGE

if TYPE_CHECKING:
    from maestro_dagster.project.root import Project

BINARY = "application/octet-stream"
SECRET_FOLDERS = ("keys", "secrets")
PUBLIC_SUFFIX = ".pub.pem"
# Of this moment, made again, secret, or nobody's.
_NOT_KEPT = frozenset({"run", "scratch", "cache", STAGE, "lost+found", *SECRET_FOLDERS})
_LINES = (".ndjson", ".jsonl")
_WHOLE = 16 * 1024 * 1024  # bytes of a file that are held at once
_TRIES = 20  # of a folder that is published anew while it is read


class FolderSource(Protocol):
    """A folder of this machine or of an object store, listed again and again while others write to it."""

    def list(self) -> Mapping[str, tuple[int, str]]:
        """(size, stamp) of each file by its relative name; the stamp changes with the content."""

    def store(self, name: str, store: ArtifactStore) -> Artifact:
        """Raises FileNotFoundError for what is gone by now."""


class LocalSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self) -> dict[str, tuple[int, str]]:
        found = {}
        for path in walk_files(self._folder):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found[path.relative_to(self._folder).as_posix()] = (
                stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}",
            )  # fmt: skip
        return found

    def store(self, name: str, store: ArtifactStore) -> Artifact:
        return store_file(self._folder / name, store)


class RemoteSource:
    def __init__(self, url: str) -> None:
        from maestro_dagster.objects.bucket import Bucket

        self._bucket = Bucket(url, setting="lake")

    def list(self) -> dict[str, tuple[int, str]]:
        return {
            name: (stat.size, stat.stamp)
            for name, stat in self._bucket.list().items()
            if not _is_passing(name) and "/lease/" not in f"/{name}"
        }

    def store(self, name: str, store: ArtifactStore) -> Artifact:
        with TemporaryDirectory(prefix="maestro-backup-") as folder:
            copy = Path(folder) / "object"
            with copy.open("wb") as file:
                file.writelines(self._bucket.chunks(name))
            return store.put_file(copy, BINARY)


def open_source(location: str) -> FolderSource:
    return RemoteSource(location) if "://" in location else LocalSource(Path(location))


def walk_files(folder: Path) -> Iterator[Path]:
    """Regular files below, without links, locks, drafts, and databases (they are copied otherwise)."""
    try:
        members = sorted(os.scandir(folder), key=lambda member: member.name)
    except FileNotFoundError:
        return
    for member in members:
        path = Path(member.path)
        if member.is_dir(follow_symlinks=False):
            yield from walk_files(path)
        elif member.is_file(follow_symlinks=False) and not _is_passing(member.name):
            yield path


def walk_events(inbox: Path) -> Iterator[Path]:
    """Files of events that the inbox's table does not have yet: they go away once it has them."""
    for name in ("new", "late"):
        yield from walk_files(inbox / name)


def find_databases(project: Project) -> tuple[list[Path], list[Path]]:
    """SQLite files of the state folder, the inbox before the journal that takes from it; and of the lake."""
    first = [project.home / "inbox" / "inbox.sqlite", project.journal]
    lake = Path(project.lake)
    found = [
        path for path in _walk_databases(project.home, without=_NOT_KEPT) if not path.is_relative_to(lake)
    ]
    ordered = dict.fromkeys([*(path for path in first if path in found), *found])
    return list(ordered), [] if "://" in project.lake else list(_walk_databases(lake))


def _walk_databases(folder: Path, *, without: Collection[str] = ()) -> Iterator[Path]:
    """Not `rglob`: it stops at a folder that goes away meanwhile, as those of runs do."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(place) != folder or name not in without)
        for path in (Path(place, name) for name in sorted(files)):
            if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink():
                yield path


def find_state_files(project: Project) -> Iterator[Path]:
    """Files of the state folder but spool, databases, artifacts, evidence, lake, and what is secret."""
    apart = {Path(place) for place in (project.artifact_store, project.lake, str(project.evidence))}
    try:
        members = sorted(project.home.iterdir())
    except FileNotFoundError:
        return
    for member in members:
        if member == project.spool or member in apart or member.is_symlink():
            continue
        if member.is_dir() and member.name not in _NOT_KEPT:
            yield from walk_files(member)
        elif member.is_file() and not _is_passing(member.name):
            yield member
    yield from sorted(project.keys.glob(f"*{PUBLIC_SUFFIX}"))


def find_secret_files(project: Project) -> Iterator[Path]:
    """Private keys and secrets: sealed, or not in a backup at all."""
    for folder in SECRET_FOLDERS:
        for path in walk_files(project.home / folder):
            if not path.name.endswith(PUBLIC_SUFFIX):
                yield path


def store_file(path: Path, store: ArtifactStore, cut: Callable[[bytes], bytes] | None = None) -> Artifact:
    """As much of the file as there is at the moment, or what `cut` leaves of it. Raises FileNotFoundError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE or cut is not None:
            data = file.read(size)
            data = _end_line(data) if path.suffix in _LINES else data
            return store.put_bytes(cut(data) if cut else data, BINARY)
        # A copy, because an object store wants to read it twice, and it may grow.
        with TemporaryDirectory(prefix="maestro-backup-") as folder:
            copy = Path(folder) / "file"
            with copy.open("wb") as target:
                left, tail = size, b""
                while left and (piece := file.read(min(left, _WHOLE))):
                    left -= len(piece)
                    target.write(piece)
                    tail = piece
                if path.suffix in _LINES:
                    target.truncate(target.tell() - (len(tail) - len(_end_line(tail))))
            return store.put_file(copy, BINARY)


def store_settled(
    source: FolderSource, store: ArtifactStore, say: Callable[[str], None]
) -> dict[str, Artifact]:
    """Every folder of a source as it was at some moment: read until nothing in it changed meanwhile.

    Raises ProjectError (`backup-unsettled`).
    """
    done: dict[str, tuple[tuple[int, str], Artifact]] = {}
    listed = source.list()
    for _ in range(_TRIES):
        for number, (name, stat) in enumerate(listed.items(), start=1):
            if name in done and done[name][0] == stat:
                continue
            try:
                done[name] = (stat, source.store(name, store))
            except FileNotFoundError:
                done.pop(name, None)
            say(f"lake: {number} of {len(listed)} files")
        # Only what changed is read again: a day that was published while we read.
        again = source.list()
        if again == listed and done.keys() >= listed.keys():
            return {name: done[name][1] for name in listed}
        listed = again
    raise ProjectError(
        "the usage lake changed all the time while it was read",
        remedy="make the backup when no compaction runs",
        code="backup-unsettled",
    )


def _is_passing(name: str) -> bool:
    base = name.rpartition("/")[2]
    return (
        base.endswith((".tmp", ".lock", "-lock", *SUFFIXES, *BESIDE))
        or base.startswith(".draft-")
        or base == ".lock"
    )


def _end_line(data: bytes) -> bytes:
    """Without what a writer has only begun."""
    return data[: data.rfind(b"\n") + 1]
