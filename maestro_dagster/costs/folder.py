"""Where the lake's files lie: a local folder, or any file system that fsspec knows.

Both show a file whole or not at all, and both can say that a file was swapped by somebody else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError
from maestro_dagster.objects.bucket import hide_password, is_lost_race

_DRAFT = ".draft-"


class Folder(Protocol):
    """One folder of the lake. Raises CostError where it cannot be reached or written."""

    def place(self, name: str) -> str:
        """Path or URL of a file, as other tools take it."""

    def child(self, name: str) -> Folder: ...

    def names(self) -> tuple[str, ...]:
        """Files of this folder, ascending; none where it does not exist."""

    def children_with(self, name: str) -> tuple[str, ...]:
        """Folders in this one that have a file of that name, ascending."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def open(self, name: str) -> Any:
        """What pyarrow reads the file from. Raises FileNotFoundError."""

    def stamp(self, name: str) -> str | None:
        """Names the content that a file has now, where the store can compare it on a write."""

    def put(self, name: str, data: bytes) -> None:
        """Durable and whole before it returns; replaces what was there."""

    def swap(self, name: str, data: bytes, stamp: str | None) -> bool:
        """`put`, unless the file is no longer the one of `stamp`: False then."""

    def create(self, name: str, data: bytes) -> bool:
        """`put` of a file that must not exist yet; False when it does."""

    def remove(self, name: str) -> None: ...


class LocalFolder:
    """A folder of this machine. Its one writer holds a lock, so `swap` needs to compare nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> str:
        return str(self.path / name)

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def names(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in os.scandir(self.path) if entry.is_file()))
        except FileNotFoundError:
            return ()

    def children_with(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(path.parent.name for path in self.path.glob(f"*/{name}")))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def open(self, name: str) -> Any:
        return self.path / name

    def stamp(self, name: str) -> str | None:
        del name
        return None

    def put(self, name: str, data: bytes) -> None:
        draft = self.path / f"{_DRAFT}{os.getpid()}-{name}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / name)
            self._sync()
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise write_error(error, self.path) from error

    def swap(self, name: str, data: bytes, stamp: str | None) -> bool:
        del stamp
        self.put(name, data)
        return True

    def create(self, name: str, data: bytes) -> bool:
        if (self.path / name).exists():
            return False
        self.put(name, data)
        return True

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_drafts(self) -> None:
        """What a killed writer left; the folder's lock is held."""
        for path in self.path.glob(f"{_DRAFT}*"):
            path.unlink(missing_ok=True)

    def _sync(self) -> None:
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class RemoteFolder:
    """A prefix of an object store. A put is one request, so an object is whole or absent."""

    def __init__(self, files: Any, root: str) -> None:
        self.files = files
        self._root = root.rstrip("/")

    def place(self, name: str) -> str:
        return str(self.files.unstrip_protocol(f"{self._root}/{name}"))

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(self.files, f"{self._root}/{quote(name, safe='=-_.')}")

    def names(self) -> tuple[str, ...]:
        found = self._ask("listed", lambda: self.files.ls(self._root, detail=True), missing=[])
        return tuple(sorted(item["name"].rsplit("/", 1)[1] for item in found if item["type"] == "file"))

    def children_with(self, name: str) -> tuple[str, ...]:
        found = self._ask("listed", lambda: self.files.glob(f"{self._root}/*/{name}"), missing=[])
        return tuple(sorted(path.rsplit("/", 2)[1] for path in found))

    def read(self, name: str) -> bytes:
        return bytes(self._ask("read", lambda: self.files.cat_file(f"{self._root}/{name}")))

    def open(self, name: str) -> Any:
        return self._ask("read", lambda: self.files.open(f"{self._root}/{name}", "rb"))

    def stamp(self, name: str) -> str | None:
        found = self._ask("read", lambda: self.files.info(f"{self._root}/{name}"), missing={})
        tag = found.get("ETag")
        return None if tag is None else str(tag)

    def put(self, name: str, data: bytes) -> None:
        self._ask("written", lambda: self._put(name, data))

    def swap(self, name: str, data: bytes, stamp: str | None) -> bool:
        if "s3" not in self._protocols():
            # No comparison known: the lease, which ends long after its last sign of life, must do.
            self.put(name, data)
            return True
        conditions = {"IfMatch": stamp} if stamp is not None else {"mode": "create"}
        return self._compare(lambda: self._put(name, data, **conditions))

    def create(self, name: str, data: bytes) -> bool:
        return self._compare(lambda: self._put(name, data, mode="create"))

    def remove(self, name: str) -> None:
        self._ask("removed", lambda: self.files.rm_file(f"{self._root}/{name}"), missing=None)

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        if "s3" not in self._protocols():
            self.files.makedirs(self._root, exist_ok=True)
        self.files.pipe_file(f"{self._root}/{name}", data, **conditions)

    def _protocols(self) -> tuple[str, ...]:
        protocol = self.files.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _compare(self, put: Any) -> bool:
        try:
            put()
        except Exception as error:
            if is_lost_race(error):
                return False
            raise self._failure("written", error) from error
        return True

    def _ask(self, what: str, call: Any, **default: Any) -> Any:
        try:
            return call()
        except FileNotFoundError:
            if "missing" in default:
                return default["missing"]
            raise
        except Exception as error:  # each back end raises errors of its own
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: Exception) -> CostError:
        return CostError(
            f"the usage lake cannot be {what}: {type(error).__name__}: {str(error)[:200]}",
            place=hide_password(self.place("")),
            remedy="check the setting `lake` and the credentials of the object store",
            code="lake-unreachable",
        )


def open_folder(location: str | Path) -> LocalFolder | RemoteFolder:
    """A folder by path, `file://` or fsspec URL. Raises CostError (`lake-location`)."""
    text = str(location)
    if "://" not in text or text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    import fsspec

    try:
        # What another process wrote a moment ago must be seen.
        files, root = fsspec.core.url_to_fs(text, use_listings_cache=False)
    except (ImportError, ValueError, OSError) as error:
        raise CostError(
            f"the usage lake cannot be opened: {str(error)[:200]}",
            place=hide_password(text),
            remedy="set `lake` in [tool.maestro] to a path or an fsspec URL; s3:// needs the extra `s3`",
            code="lake-location",
        ) from error
    return RemoteFolder(files, root)
