"""Where finished bundles lie: a folder of this machine and, where one is named, an object store.

With an object store every machine of a project finds every bundle there; the folder then holds copies. An
object is created on condition that it does not exist: evidence is never replaced by other evidence, and a
bucket may lock what it was given.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from maestro_dagster.errors import EvidenceError, StoreError
from maestro_dagster.evidence.archive import SIZE_LIMIT
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.objects.bucket import Bucket

SUFFIX: Final = ".zip"
_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Found:
    """`data` is the right bundle, from the store or from the copy on this machine; None: there is none."""

    data: bytes | None
    stored: Literal["right", "changed", "missing"]


class EvidenceStore:
    """Bundles by run. `url` (fsspec) is None where the folder is all there is; it is opened when needed.

    Raises EvidenceError `evidence-unreachable` where the object store cannot be read or written.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self._url = url
        self._opened: Bucket | None = None

    def path(self, run_id: str) -> Path:
        """Of the bundle, or of its copy, on this machine; `fetch` sees to it that it is there."""
        return self.folder / f"{run_id}{SUFFIX}"

    def place(self, run_id: str) -> str:
        """Path or URL under which everybody finds the bundle."""
        return str(self.path(run_id)) if self._url is None else self._bucket().place(f"{run_id}{SUFFIX}")

    def fetch(self, run_id: str, digest: str) -> Path | None:
        """The bundle with this digest on this machine, copied from the object store if need be, else None."""
        path = self.path(run_id)
        if _has_digest(path, digest):
            return path
        data = self._read_remote(run_id)
        if data is None or digest_bytes(data) != digest:
            return None
        _write(path, data)
        return path

    def publish(self, run_id: str, data: bytes) -> Path:
        """Durable in both places before it returns. The caller knows that these are the run's only bytes.

        Raises EvidenceError (`evidence-conflict`: the object store has other evidence of this run;
        `disk-full`, `evidence-write`).
        """
        if self._url is not None:
            try:
                created = self._bucket().create(f"{run_id}{SUFFIX}", data)
            except StoreError as error:
                raise _unreachable(error) from error
            if not created and self._read_remote(run_id) != data:
                raise EvidenceError(
                    "there is other evidence of this run already, and evidence is never replaced",
                    place=self.place(run_id),
                    remedy="see who else runs this project: a second journal, or one that was restored from "
                    "before the run ended, has to start the run anew under another id",
                    code="evidence-conflict",
                )
        path = self.path(run_id)
        _write(path, data)
        return path

    def keep(self, run_id: str, data: bytes) -> None:
        """A copy on this machine of what the object store has already. Raises EvidenceError as `publish`."""
        if not self.path(run_id).exists():
            _write(self.path(run_id), data)

    def read(self, run_id: str) -> bytes:
        """Raises EvidenceError (`bundle-missing`, `bundle-unreadable`, `bundle-too-large`)."""
        if _RUN.fullmatch(run_id):
            if self._url is not None and (data := self._read_remote(run_id)) is not None:
                return data
            if self.path(run_id).is_file():
                from maestro_dagster.evidence.verify import read_limited

                return read_limited(self.path(run_id))
        raise EvidenceError(
            f"there is no evidence of a run {run_id!r}",
            place=str(self.folder) if self._url is None else self._bucket().place(),
            remedy="`maestro status` lists the runs; a run has evidence once it has ended",
            code="bundle-missing",
        )

    def find(self, run_id: str, digest: str) -> Found:
        """The bundle with this digest, wherever it still is, and how it stands in the store itself.

        Raises EvidenceError (`evidence-unreachable`).
        """
        path = self.path(run_id)
        copy = path.read_bytes() if _has_digest(path, digest) else None
        if self._url is None:
            return Found(copy, "right" if copy is not None else "changed" if path.is_file() else "missing")
        try:
            data = self._read_remote(run_id)
        except EvidenceError as error:
            if error.error_code == "evidence-unreachable":
                raise
            return Found(copy, "changed")  # of a size that no bundle has
        if data is None:
            return Found(copy, "missing")
        return Found(data, "right") if digest_bytes(data) == digest else Found(copy, "changed")

    def runs(self) -> Iterator[str]:
        """Of which runs there is evidence, in no order."""
        if self._url is None:
            names = [path.name for path in self.folder.glob(f"*{SUFFIX}")]
        else:
            try:
                names = list(self._bucket().list())
            except StoreError as error:
                raise _unreachable(error) from error
        for name in names:
            run_id = name.removesuffix(SUFFIX)
            if name.endswith(SUFFIX) and _RUN.fullmatch(run_id):
                yield run_id

    def _bucket(self) -> Bucket:
        if self._opened is None:
            assert self._url is not None  # noqa: S101 - callers have asked
            try:
                self._opened = Bucket(self._url, setting="evidence")
            except StoreError as error:
                raise _unreachable(error) from error
        return self._opened

    def _read_remote(self, run_id: str) -> bytes | None:
        return None if self._url is None else _read(self._bucket(), f"{run_id}{SUFFIX}")


def read_location(url: str) -> bytes:
    """A file behind an fsspec URL, of a bundle's size at most.

    Raises EvidenceError (`bundle-missing`, `bundle-too-large`, `evidence-unreachable`).
    """
    prefix, _, name = url.rpartition("/")
    try:
        data = _read(Bucket(prefix, setting="evidence"), name)
    except StoreError as error:
        raise _unreachable(error) from error
    if data is None:
        raise EvidenceError(
            "there is no such object", place=url, remedy="give the URL of an evidence.zip",
            code="bundle-missing",
        )  # fmt: skip
    return data


def _read(bucket: Bucket, name: str) -> bytes | None:
    try:
        stat = bucket.stat(name)
        if stat is None:
            return None
        if stat.size > SIZE_LIMIT:
            raise EvidenceError(
                f"the object is larger than the {SIZE_LIMIT} bytes that a bundle may have",
                place=bucket.place(name),
                remedy="give the URL of an evidence.zip",
                code="bundle-too-large",
            )
        return bucket.read(name)
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise _unreachable(error) from error


def _unreachable(error: StoreError) -> EvidenceError:
    return EvidenceError(error.fact, place=error.place, remedy=error.remedy, code="evidence-unreachable")


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return digest_bytes(path.read_bytes()) == digest
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Appears whole or not at all. Raises EvidenceError (`disk-full`, `evidence-write`)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise EvidenceError(
            "the disk is full, the evidence was not written" if full else "the evidence cannot be written",
            place=str(path),
            remedy="free some space or check the folder's mode, then run the command again",
            code="disk-full" if full else "evidence-write",
        ) from error
