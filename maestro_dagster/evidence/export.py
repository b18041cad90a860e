"""One claim, provable alone: the claim, its path to the signed root, the receipt that signed the root."""

from __future__ import annotations

import json
from typing import Any, Final

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.archive import read_archive
from maestro_dagster.evidence.bundle import CLAIMS, RECEIPT
from maestro_dagster.evidence.claim import read_claim
from maestro_dagster.evidence.document import read_canonical
from maestro_dagster.evidence.merkle import MerkleTree, verify_inclusion
from maestro_dagster.evidence.problem import Problem
from maestro_dagster.evidence.trust import Trust
from maestro_dagster.evidence.verify import VerifyReport, open_receipt
from maestro_dagster.manifest.canonical import canonical_json

PROOF_SCHEMA: Final = "urn:maestro:inclusion-proof:v1"
_FIELDS: Final = {"schema", "claim", "index", "size", "path", "receipt"}


def export_claim(bundle: bytes, step: str) -> bytes:
    """A proof (canonical JSON, some KB) that a run made this claim; it tells nothing of other steps.

    Raises EvidenceError: `claim-missing`, or as `read_archive` for a broken bundle.
    """
    files = read_archive(bundle)
    if CLAIMS not in files or RECEIPT not in files:
        raise EvidenceError("the archive is no evidence bundle", code="file-missing")
    lines = files[CLAIMS].splitlines()
    for index, line in enumerate(lines):
        claim = read_claim(line)
        if claim["step"] == step:
            path = MerkleTree(lines).inclusion_proof(index)
            proof = {
                "schema": PROOF_SCHEMA,
                "claim": claim,
                "index": index,
                "size": len(lines),
                "path": [node.hex() for node in path],
                "receipt": json.loads(files[RECEIPT]),
            }
            return canonical_json(proof)
    raise EvidenceError(
        f"the run has no claim for the step {step!r}",
        remedy="name a step of the flow; `maestro status RUN` lists them",
        code="claim-missing",
    )


def verify_claim(data: bytes, trust: Trust) -> VerifyReport:
    """Judges what `export_claim` wrote. Whatever is wrong is a problem in the report."""
    try:
        proof = _read_proof(data)
        predicate = open_receipt(canonical_json(proof["receipt"]), trust)
        line = canonical_json(proof["claim"])
        claim = read_claim(line)
        _check_path(proof, line, predicate)
    except EvidenceError as error:
        return VerifyReport((Problem(error.error_code, error.place, error.fact),))
    run = predicate["run"]
    problems: tuple[Problem, ...] = ()
    if (claim["run_id"], claim["flow_digest"]) != (run["id"], predicate["flow"]["digest"]):
        problems = (Problem("claim-foreign", claim["step"], "the claim is of another run or flow"),)
    return VerifyReport(
        problems,
        1,
        run["id"],
        run["status"],
        predicate["flow"]["name"],
        predicate["flow"]["digest"],
        trust.signer_line(),
    )


def _read_proof(data: bytes) -> dict[str, Any]:
    proof = read_canonical(data, "the proof", code="proof")
    if not isinstance(proof, dict) or set(proof) != _FIELDS or proof["schema"] != PROOF_SCHEMA:
        raise EvidenceError("the file is no proof of a claim", code="proof-invalid")
    return proof


def _check_path(proof: dict[str, Any], line: bytes, predicate: dict[str, Any]) -> None:
    signed = predicate["claims"]
    try:
        path = [bytes.fromhex(node) for node in proof["path"]]
        root = bytes.fromhex(signed["root"])
        same_size = proof["size"] == signed["count"]
        held = same_size and verify_inclusion(line, proof["index"], proof["size"], path, root)
    except (TypeError, ValueError) as error:
        raise EvidenceError("the proof's path is malformed", code="proof-invalid") from error
    if [node.hex() for node in path] != proof["path"] or type(proof["index"]) is not int:
        raise EvidenceError("the proof's path is malformed", code="proof-invalid")
    if not held:
        raise EvidenceError("the claim is not under the signed root", code="inclusion")
