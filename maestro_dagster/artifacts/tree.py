"""Folders as artifacts: a canonical list of files, each an object of its own.

    {"entries": [{"digest": "sha256:..", "executable": false, "path": "a/b", "size": 3}], "version": 1}

Entries are sorted by path. Of a file's mode only "executable by its owner" is kept: setuid bits, owners
and times never travel.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from maestro_dagster.artifacts.digest import parse_digest
from maestro_dagster.artifacts.failure import corrupt
from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, TreeEntry
from maestro_dagster.errors import StoreError
from maestro_dagster.manifest.canonical import canonical_json

MOST_ENTRIES = 200_000
_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_FILES = 512
_SMALL = 1024 * 1024


class TreeStore(Protocol):
    """What a store must offer to hold trees."""

    def put_many(self, contents: list[tuple[bytes, str]]) -> list[Artifact]: ...

    def put_file(self, path: Path, media_type: str) -> Artifact: ...

    def read(self, digest: str) -> bytes: ...

    def chunks(self, digest: str) -> Iterator[bytes]: ...


def put_tree(store: TreeStore, folder: Path) -> Artifact:
    """Stores every file below `folder`, small ones in batches. Empty folders are not kept."""
    root = folder.resolve()
    if not root.is_dir():
        raise StoreError(f"{folder} is no folder", remedy="give the path of a folder", code="tree-missing")
    entries: list[dict[str, Any]] = []
    batch: list[tuple[str, bytes, bool]] = []
    held = 0
    for path, name in _walk(root):
        data, executable = _read_small(path)
        if data is None:
            stored = store.put_file(path, "application/octet-stream")
            entries.append(_entry(name, stored, executable))
            continue
        batch.append((name, data, executable))
        held += len(data)
        if held > _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            entries += _store_batch(store, batch)
            batch, held = [], 0
    entries += _store_batch(store, batch)
    entries.sort(key=lambda entry: str(entry["path"]))
    return store.put_many([(canonical_json({"entries": entries, "version": 1}), TREE_MEDIA_TYPE)])[0]


def parse_tree(data: bytes, digest: str) -> tuple[TreeEntry, ...]:
    """Raises StoreError (`tree-malformed`) for anything that no `put_tree` could have written."""
    try:
        document = json.loads(data)
        if set(document) != {"entries", "version"} or document["version"] != 1:
            raise _malformed(digest, "it is not a tree of version 1")
        entries = tuple(_parse_entry(entry, digest) for entry in document["entries"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _malformed(digest, "it is not the JSON of a tree") from error
    _check_paths(entries, digest)
    return entries


def export_tree(store: TreeStore, artifact: Artifact, target: Path) -> bool:
    """Writes a tree below `target`; False when the artifact is a single file. Occupied paths are refused."""
    if artifact.media_type != TREE_MEDIA_TYPE:
        return False
    entries = parse_tree(store.read(artifact.digest), artifact.digest)
    target.mkdir(parents=True, exist_ok=True)
    root = target.resolve()
    made = {root}
    for entry in entries:
        path = root.joinpath(*entry.path.split("/"))
        _make_parents(path.parent, root, made)
        write_verified(store.chunks(entry.digest), entry.digest, path, 0o755 if entry.executable else 0o644)
    return True


def write_verified(pieces: Iterable[bytes], digest: str, target: Path, mode: int = 0o644) -> None:
    """Writes to `target`, which appears only when its content has the digest. Never overwrites."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    found = sha256()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, mode), "wb") as sink:
            for piece in pieces:
                found.update(piece)
                sink.write(piece)
        if found.hexdigest() != parse_digest(digest):
            raise corrupt(digest, target)
        # link, unlike rename, refuses a path that is taken
        os.link(temporary, target)
    except FileExistsError as error:
        raise StoreError(
            "there is something already where an artifact is to be written",
            place=str(target),
            remedy="choose an empty folder",
            code="export-occupied",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """(file to read, path in the tree) of each regular file; links inside are followed, never outwards."""
    seen = 0
    stack: list[tuple[Path, str, tuple[Path, ...]]] = [(root, "", (root,))]
    while stack:
        folder, prefix, above = stack.pop()
        with os.scandir(folder) as found:
            members = sorted(found, key=lambda member: member.name)
        for member in members:
            seen += 1
            if seen > MOST_ENTRIES:
                raise _refused(root, f"holds more than {MOST_ENTRIES} files", "tree-large")
            name = _check_name(prefix + member.name, root)
            path = Path(member.path)
            if member.is_symlink():
                path = _follow(path, root, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                if path in above:
                    raise _refused(root, f"has a link that leads back to itself: {name}", "tree-loop")
                stack.append((path, name + "/", (*above, path)))
            elif stat.S_ISREG(mode):
                yield path, name
            else:
                raise _refused(root, f"holds something that is no file: {name}", "tree-special")


def _follow(link: Path, root: Path, name: str) -> Path:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _refused(root, f"has a link that leads nowhere: {name}", "tree-link") from error
    if not target.is_relative_to(root):
        raise _refused(root, f"has a link that leaves it: {name}", "tree-link")
    return target


def _check_name(name: str, root: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _refused(root, f"has a file name that is not UTF-8: {name!r}", "tree-name") from error
    return name


def _read_small(path: Path) -> tuple[bytes | None, bool]:
    """The content, None for a large file; and whether it is executable. Opened once, without following."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as source:
        found = os.fstat(source.fileno())
        executable = bool(found.st_mode & stat.S_IXUSR)
        return (source.read() if found.st_size <= _SMALL else None), executable


def _store_batch(store: TreeStore, batch: list[tuple[str, bytes, bool]]) -> list[dict[str, Any]]:
    stored = store.put_many([(data, "application/octet-stream") for _, data, _ in batch])
    return [
        _entry(name, artifact, executable)
        for (name, _, executable), artifact in zip(batch, stored, strict=True)
    ]


def _entry(name: str, stored: Artifact, executable: bool) -> dict[str, Any]:
    return {"digest": stored.digest, "executable": executable, "path": name, "size": stored.size}


def _parse_entry(entry: dict[str, Any], digest: str) -> TreeEntry:
    if set(entry) != {"digest", "executable", "path", "size"}:
        raise _malformed(digest, "an entry has other fields")
    path, size, executable = entry["path"], entry["size"], entry["executable"]
    if not (isinstance(path, str) and type(size) is int and size >= 0 and isinstance(executable, bool)):
        raise _malformed(digest, "an entry has fields of other types")
    parse_digest(entry["digest"])
    return TreeEntry(path, entry["digest"], size, executable)


def _check_paths(entries: tuple[TreeEntry, ...], digest: str) -> None:
    files = {entry.path for entry in entries}
    if len(files) != len(entries):
        raise _malformed(digest, "a path appears twice")
    if [entry.path for entry in entries] != sorted(files):
        raise _malformed(digest, "its paths are not sorted")
    for path in files:
        parts = path.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\0" in path:
            raise _malformed(digest, f"the path {path!r} would leave the folder")
        if any("/".join(parts[:depth]) in files for depth in range(1, len(parts))):
            raise _malformed(digest, f"the path {path!r} lies below a file")


def _make_parents(folder: Path, root: Path, made: set[Path]) -> None:
    if folder in made:
        return
    _make_parents(folder.parent, root, made)
    folder.mkdir(exist_ok=True)
    if folder.is_symlink():
        raise StoreError(
            "a link stands where a folder of an artifact is to be written",
            place=str(folder),
            remedy="choose an empty folder",
            code="export-occupied",
        )
    made.add(folder)


def _refused(root: Path, what: str, code: str) -> StoreError:
    return StoreError(
        f"the folder {what}",
        place=str(root),
        remedy="artifacts hold regular files only, and links that stay inside their folder",
        code=code,
    )


def _malformed(digest: str, what: str) -> StoreError:
    return StoreError(
        f"artifact {digest} is no tree: {what}",
        remedy="run the step that made it again",
        code="tree-malformed",
    )
