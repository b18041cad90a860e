"""The journal of what was removed: one signed statement a line, each naming the line before it.

    {"bundle": <Sigstore bundle of an in-toto Statement>, "previous": "<sha256 of the line before>"}

The statement's predicate has `previous` too, so that the chain is signed: a line that is changed, left out
or moved is found. Only lines cut off the end are not, unless the newest digest is kept elsewhere: every
removal prints it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError, EvidenceError
from maestro_dagster.manifest.canonical import canonical_json

Sign = Callable[[dict[str, Any]], bytes]  # an in-toto Statement -> a Sigstore bundle, JSON
Open = Callable[[bytes], Mapping[str, Any]]  # a bundle -> its Statement; raises EvidenceError


@dataclass(frozen=True, slots=True)
class ProofLine:
    """`digest` is the sha256 of the whole line, which the next line names."""

    digest: str
    previous: str
    bundle: bytes


class ProofJournal:
    """An append-only file. Several processes may append: they take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end: tuple[int, str] = (-1, "")  # size of the file after our last line, and its digest

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The only one to remove and to append, until it is left. Raises CostError (`spool-write`)."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(error, self.path) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def append(self, statement: dict[str, Any], sign: Sign) -> str:
        """Signs the statement with its place in the chain and makes it durable; gives the line's digest.

        The caller has the `turn`. Raises CostError (`proofs-damaged`, `disk-full`, `spool-write`).
        """
        previous = self.newest()
        whole = {**statement, "predicate": {**statement["predicate"], "previous": previous}}
        line = canonical_json({"bundle": json.loads(sign(whole)), "previous": previous})
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(handle, _whole_size(handle))  # what a power cut left of a line
                os.lseek(handle, 0, os.SEEK_END)
                view = memoryview(line + b"\n")
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
                self._end = os.fstat(handle).st_size, sha256(line).hexdigest()
            finally:
                os.close(handle)
        except OSError as error:
            raise write_error(error, self.path) from error
        return self._end[1]

    def read(self) -> Iterator[ProofLine]:
        """The lines in order, the chain followed. Raises CostError (`proofs-damaged`)."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise CostError(
                f"the journal of removals cannot be read: {error.strerror}",
                place=str(self.path),
                remedy="make the file readable for the project's user",
                code="proofs-damaged",
            ) from error
        before = ""
        for number, text in enumerate(data.split(b"\n")[:-1], start=1):  # after the last newline: torn
            line = self._line(text, number)
            if line.previous != before:
                raise self._damaged(number, "does not name the line before it")
            before = line.digest
            yield line

    def statements(self, open_bundle: Open) -> Iterator[tuple[ProofLine, Mapping[str, Any]]]:
        """Every line with its statement, the signature and its place in the chain checked.

        Raises CostError (`proofs-damaged`) or what `open_bundle` raises.
        """
        for number, line in enumerate(self.read(), start=1):
            try:
                statement = open_bundle(line.bundle)
            except EvidenceError as error:
                raise self._damaged(number, f"is not signed by the project: {error.fact}") from error
            if statement["predicate"].get("previous") != line.previous:
                raise self._damaged(number, "was signed for another place in the journal")
            yield line, statement

    def newest(self) -> str:
        """The digest of the last line; the chain is followed once, not for every line of a long job."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size == self._end[0]:
                return self._end[1]
        lines = list(self.read())
        return lines[-1].digest if lines else ""

    def _line(self, text: bytes, number: int) -> ProofLine:
        try:
            value = json.loads(text)
            return ProofLine(
                sha256(text).hexdigest(), str(value["previous"]), canonical_json(value["bundle"])
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(number, "cannot be read") from error

    def _damaged(self, number: int, what: str) -> CostError:
        return CostError(
            f"a line of the journal of removals {what}",
            place=f"{self.path}:{number}",
            remedy="restore the journal from a backup; the lake's manifests still count what was removed",
            code="proofs-damaged",
        )


def _whole_size(handle: int) -> int:
    """Bytes up to and including the last newline."""
    size = os.fstat(handle).st_size
    if size == 0:
        return 0
    data = os.pread(handle, size, 0)
    return data.rfind(b"\n") + 1
