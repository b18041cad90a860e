"""Objects behind an fsspec URL (`s3://bucket/prefix`, `memory://name`): whole or absent, made once.

An object store shows an object when its last byte has arrived, so there are no temporary names. What
keeps two writers from each other is the conditional write of S3 (`If-None-Match: *` on PutObject and
CompleteMultipartUpload): the second of them is refused and looks at what the first wrote.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from maestro_dagster.errors import StoreError

T = TypeVar("T")

PIECE = 8 * 1024 * 1024  # bytes that are held of an object while it is read
_ONE_REQUEST = 16 * 1024 * 1024  # bytes; larger objects travel in parts
_MOST_PARTS = 9_000  # S3 takes 10,000
_RACE = re.compile(r"PreconditionFailed|ConditionalRequestConflict|At least one of the pre-?conditions")


@dataclass(frozen=True, slots=True)
class Stat:
    """`stamp` tells two contents under one name apart; "" where the store has no such thing."""

    size: int
    stamp: str


class Bucket:
    """A prefix of an object store. Names are relative and "/"-separated.

    All methods raise StoreError (`store-unavailable`) when the store cannot be reached or refuses.
    """

    def __init__(self, url: str, *, setting: str = "artifact_store") -> None:
        self.url = url.rstrip("/")
        self._setting = setting
        self._pid = 0
        self._opened: tuple[Any, str] = (None, "")
        self._open()

    def place(self, name: str = "") -> str:
        """The URL of an object as it may be shown."""
        return hide_password(f"{self.url}/{name}".rstrip("/"))

    def list(self, prefix: str = "") -> dict[str, Stat]:
        """Everything below a prefix, by name."""
        files, root = self._open()
        folder = f"{root}/{prefix}".rstrip("/")
        found = self._ask("listed", prefix, lambda: files.find(folder, detail=True), missing={})
        return {path[len(root) + 1 :]: _read_stat(info) for path, info in found.items()}

    def stat(self, name: str) -> Stat | None:
        """None when there is no such object."""
        files, path = self._at(name)
        info = self._ask("read", name, lambda: files.info(path), missing=None)
        if info is None or info.get("type") != "file":
            return None
        return _read_stat(info)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        files, path = self._at(name)
        return bytes(self._ask("read", name, lambda: files.cat_file(path)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The object in pieces of at most PIECE bytes. Raises FileNotFoundError."""
        files, path = self._at(name)
        stat = self.stat(name)
        if stat is None:
            raise FileNotFoundError(path)
        if stat.size <= PIECE:
            yield self.read(name)
            return
        with self._ask(
            "read", name, lambda: files.open(path, "rb", block_size=PIECE, cache_type="none")
        ) as file:
            while piece := self._ask("read", name, lambda: file.read(PIECE)):
                yield bytes(piece)

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object that must not exist yet; False when it does. What was there stays."""
        if len(data) > _ONE_REQUEST:
            pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
            return self.create_from(name, pieces, len(data), sha256(data).hexdigest())
        files, path = self._at(name)
        options: dict[str, Any] = {"mode": "create"}
        if self._is_s3(files):
            # The store compares it with what arrived; see "Checking object integrity" of Amazon S3.
            options["ChecksumSHA256"] = base64.b64encode(sha256(data).digest()).decode()
        else:
            files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        return self._race(name, lambda: files.pipe_file(path, data, **options) or True) is not None

    def create_from(self, name: str, pieces: Iterable[bytes], size: int, digest: str) -> bool:
        """As `create`, in parts: never more than two of them are held. `digest` is the sha256 in hex.

        Raises StoreError (`object-changed`) when the pieces turn out to be something else: nothing is
        stored then.
        """
        files, path = self._at(name)
        if self.stat(name) is not None:
            return False
        if not self._is_s3(files):
            files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        part = max(_ONE_REQUEST, -(-size // _MOST_PARTS))

        def upload() -> bool:
            found = sha256()
            file = files.open(path, "xb", block_size=part, autocommit=False)
            whole = False
            try:
                for piece in pieces:
                    found.update(piece)
                    file.write(piece)
                file.close()  # sends what is left; the object does not exist before the commit
                if found.hexdigest() == digest:
                    file.commit()
                    whole = True
            finally:
                if not whole:
                    file.discard()
                    file.closed = True  # or it would send its rest when it is collected
                    if not self._is_s3(files):  # some file systems show a file before its commit
                        self.remove(name)
            return whole

        kept = self._race(name, upload)
        if kept is False:
            raise StoreError(
                "a file changed while it was being stored, nothing was kept of it",
                place=self.place(name),
                remedy="store it again once nothing writes to it",
                code="object-changed",
            )
        return kept is not None

    def remove(self, name: str) -> None:
        files, path = self._at(name)
        self._ask("removed", name, lambda: files.rm_file(path), missing=None)

    def _at(self, name: str) -> tuple[Any, str]:
        files, root = self._open()
        return files, f"{root}/{name}"

    def _open(self) -> tuple[Any, str]:
        """Opened anew after a fork: the threads of fsspec stay behind in the parent."""
        if self._pid == os.getpid():
            return self._opened
        import fsspec

        try:
            # What another process wrote a moment ago must be seen.
            files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError, OSError) as error:
            raise StoreError(
                f"the object store cannot be opened: {str(error)[:200]}",
                place=hide_password(self.url),
                remedy=f"check the setting `{self._setting}`; s3:// needs the extra `s3`",
                code="store-unavailable",
            ) from error
        self._opened = files, str(root).rstrip("/")
        self._pid = os.getpid()
        return self._opened

    @staticmethod
    def _is_s3(files: Any) -> bool:
        protocol = files.protocol
        return "s3" in ((protocol,) if isinstance(protocol, str) else tuple(protocol))

    def _race(self, name: str, put: Callable[[], T]) -> T | None:
        """None when another writer was first."""
        try:
            return put()
        except StoreError:
            raise
        except Exception as error:
            if is_lost_race(error):
                return None
            raise self._failure("written", name, error) from error

    def _ask(self, what: str, name: str, call: Callable[[], T], **default: Any) -> T:
        try:
            return call()
        except FileNotFoundError:
            if "missing" in default:
                return default["missing"]  # type: ignore[no-any-return]
            raise
        except Exception as error:  # each back end raises errors of its own
            raise self._failure(what, name, error) from error

    def _failure(self, what: str, name: str, error: Exception) -> StoreError:
        return StoreError(
            f"the object store cannot be {what}: {type(error).__name__}: {str(error)[:200]}",
            place=self.place(name),
            remedy=f"check the setting `{self._setting}`, the network and the credentials of the store",
            code="store-unavailable",
        )


def _read_stat(info: dict[str, Any]) -> Stat:
    return Stat(int(info["size"]), str(info.get("ETag") or ""))


def is_lost_race(error: Exception) -> bool:
    """Whether a conditional write was refused because another writer came first."""
    return isinstance(error, FileExistsError) or _RACE.search(str(error)) is not None


def hide_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "***@", url)
