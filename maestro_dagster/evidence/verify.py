"""`maestro verify`: whether a bundle is what a trusted key signed, whole, and at one with itself. Offline.

Four stages, each on the ground that the one before made firm: the archive's bytes, the receipt's
signature, the digest of every file, the content. A stage lists all that it finds; none runs after a
stage that found something, because its findings would mean nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.archive import SIZE_LIMIT, read_archive
from maestro_dagster.evidence.bundle import FIXED_FILES, INDEX, OPTIONAL_FILES, RECEIPT, write_index
from maestro_dagster.evidence.content import check_content
from maestro_dagster.evidence.dsse import read_statement
from maestro_dagster.evidence.problem import Problem
from maestro_dagster.evidence.statement import RECEIPT_TYPE, write_receipt
from maestro_dagster.evidence.trust import KeyTrust, Trust
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes

_PROVENANCE_NAME: Final = re.compile(r"provenance/\d{2,6}-[A-Za-z0-9._+-]{1,100}\.sigstore\.json")
_DESCRIPTION: Final = ("run", "flow", "claims", "context", "warnings", "report")
_RUN: Final = ("id", "status", "startedAt", "finishedAt")


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`claims` is how many were checked; the rest is None until the signature was found good."""

    problems: tuple[Problem, ...]
    claims: int = 0
    run_id: str | None = None
    run_status: str | None = None
    flow: str | None = None
    flow_digest: str | None = None
    signer: str | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "claims": self.claims,
            "problems": [problem.to_json() for problem in self.problems],
            "run_id": self.run_id,
            "run_status": self.run_status,
            "flow": self.flow,
            "flow_digest": self.flow_digest,
            "signer": self.signer,
        }


def verify_bundle(
    data: bytes | Path, keys: Sequence[bytes] = (), *, trust: Trust | None = None
) -> VerifyReport:
    """Judges an evidence.zip by the given public keys (PEM), or by `trust` instead of keys.

    Raises KeyMissingError when there is nothing to judge by, EvidenceError (`bundle-missing`,
    `bundle-unreadable`, `bundle-too-large`) when the file cannot be read. Whatever is wrong inside is a
    problem in the report.
    """
    judge = trust or KeyTrust(keys)
    content = read_limited(data) if isinstance(data, Path) else data
    try:
        files = read_archive(content)
        _check_names(files)
        predicate = _open_receipt(files, judge)
    except EvidenceError as error:
        return VerifyReport((Problem(error.error_code, error.place, error.fact),))
    described = VerifyReport(
        problems=tuple(_check_digests(files, predicate)),
        run_id=predicate["run"]["id"],
        run_status=predicate["run"]["status"],
        flow=str(predicate["flow"]["name"]),
        flow_digest=predicate["flow"]["digest"],
        signer=judge.signer_line(),
    )
    if described.problems:
        return described
    found, claims = check_content(files, predicate, judge)
    return VerifyReport(
        tuple(found),
        claims,
        described.run_id,
        described.run_status,
        described.flow,
        described.flow_digest,
        described.signer,
    )


def read_limited(path: Path, limit: int = SIZE_LIMIT) -> bytes:
    """The bytes of a regular file; one that is larger than the limit is refused unread.

    Raises EvidenceError: `bundle-missing`, `bundle-unreadable`, `bundle-too-large`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would hold the verifier
            raise _unreadable(path, "it is not a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise EvidenceError(
                    f"the file is larger than the {limit} bytes that a bundle may have",
                    place=str(path),
                    remedy="give the path of an evidence.zip",
                    code="bundle-too-large",
                )
            return file.read()
    except FileNotFoundError as error:
        raise EvidenceError(
            "there is no such file",
            place=str(path),
            remedy="give the path of an evidence.zip",
            code="bundle-missing",
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error


def _unreadable(path: Path, why: str) -> EvidenceError:
    return EvidenceError(
        f"the file cannot be read: {why}",
        place=str(path),
        remedy="give the path of an evidence.zip that this user may read",
        code="bundle-unreadable",
    )


def open_receipt(data: bytes, trust: Trust) -> dict[str, Any]:
    """The predicate of a receipt that somebody trusted signed, its shape checked. Raises EvidenceError."""
    statement = read_statement(trust.open_statement(data), RECEIPT_TYPE)
    predicate: dict[str, Any] = statement["predicate"]
    run, flow, claims = (predicate.get(name) for name in ("run", "flow", "claims"))
    well_formed = (
        set(predicate) == {*_DESCRIPTION, "files"}
        and _all_text(run, _RUN)
        and _all_text(flow, ("name", "version", "digest"))
        and isinstance(claims, dict)
        and set(claims) == {"count", "root", "tree"}
        and isinstance(claims["root"], str)
        and type(claims["count"]) is int
        and isinstance(predicate["context"], dict)
        and isinstance(predicate["warnings"], list)
        and isinstance(predicate["report"], str)
        and isinstance(predicate["files"], dict)
        and statement == write_receipt({name: predicate[name] for name in _DESCRIPTION}, predicate["files"])
    )
    if not well_formed:
        raise EvidenceError("the receipt lacks fields or has unknown ones", code="receipt-invalid")
    return predicate


def _all_text(value: Any, names: Sequence[str]) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(names)
        and all(isinstance(item, str) for item in value.values())
    )


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in sorted(FIXED_FILES - files.keys()):
        raise EvidenceError("a file of the bundle is missing", place=name, code="file-missing")
    for name in sorted(files.keys() - FIXED_FILES - OPTIONAL_FILES):
        if _PROVENANCE_NAME.fullmatch(name) is None:
            raise EvidenceError(
                "the bundle has a file that is no part of it", place=name, code="file-unexpected"
            )


def _open_receipt(files: Mapping[str, bytes], trust: Trust) -> dict[str, Any]:
    try:
        return open_receipt(files[RECEIPT], trust)
    except EvidenceError as error:
        raise EvidenceError(error.fact, place=RECEIPT, code=error.error_code) from error


def _check_digests(files: Mapping[str, bytes], predicate: Mapping[str, Any]) -> Iterator[Problem]:
    listed: Mapping[str, Any] = predicate["files"]
    present = {name: digest_bytes(data) for name, data in files.items() if name != RECEIPT}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield Problem("file-missing", name, "the receipt names a file that is not in the bundle")
        elif name not in listed:
            yield Problem("file-unexpected", name, "the receipt does not name this file")
        elif listed[name] != present[name]:
            yield Problem(
                "digest-mismatch", name, f"its digest is {present[name]}, signed was {listed[name]}"
            )
    if present != listed:
        return
    if canonical_json(write_index(files)) != files[INDEX]:
        yield Problem("index-mismatch", INDEX, "it does not list the files of the bundle")
    if predicate["flow"]["digest"] != present["flow.json"]:
        yield Problem("flow-digest", "flow.json", "the receipt names another flow")
