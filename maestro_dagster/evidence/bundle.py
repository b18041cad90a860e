"""evidence.zip: everything a stranger needs to check a run offline, except the key to trust.

`receipt.sigstore.json` is signed and names the digest of every other file, `index.json` and
`report.html` included. The index lists all but itself and the receipt: no file refers in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.evidence.archive import write_archive
from maestro_dagster.evidence.claim import read_claim
from maestro_dagster.evidence.document import read_canonical, write_canonical
from maestro_dagster.evidence.dsse import sign_statement
from maestro_dagster.evidence.interface import RunRecord, Signer
from maestro_dagster.evidence.merkle import MerkleTree
from maestro_dagster.evidence.report import REPORT_VERSION, render_report
from maestro_dagster.evidence.statement import (
    describe_run,
    name_provenance,
    write_provenance,
    write_receipt,
)
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes

CLAIMS: Final = "signed-claims.jsonl"
DECISIONS: Final = "policy-decisions.json"
SBOM: Final = "sbom.json"
SLOS: Final = "slos.json"
COSTS: Final = "cost-report.json"
MANIFEST_HASH: Final = "manifest-hash.txt"
FLOW: Final = "flow.json"
RECEIPT: Final = "receipt.sigstore.json"
KEY_HINT: Final = "key-hint.txt"
INDEX: Final = "index.json"
REPORT: Final = "report.html"
TRACE: Final = "trace.json"
FIXED_FILES: Final = frozenset(
    {CLAIMS, DECISIONS, SBOM, SLOS, COSTS, MANIFEST_HASH, FLOW, RECEIPT, KEY_HINT, INDEX, REPORT}
)
OPTIONAL_FILES: Final = frozenset({TRACE})  # bundles of earlier releases have none


def build_bundle(record: RunRecord, signer: Signer) -> bytes:
    """The bytes of evidence.zip; the same record and key give the same bytes.

    Raises EvidenceError when the record could not be verified afterwards: `claim-missing`,
    `claim-unexpected`, `claim-duplicate`, `flow-digest`, `claim-foreign`, `built-unclaimed`.
    """
    claims = [read_claim(line) for line in record.claims]
    flow = json.loads(record.flow_json)
    if digest_bytes(record.flow_json) != record.flow_digest:
        raise EvidenceError("the flow's digest is not that of its normal form", code="flow-digest")
    for code, step, fact in check_completeness(flow, (claim["step"] for claim in claims)):
        raise EvidenceError(fact, place=f"run {record.run_id}, step {step}", code=code)
    _check_record(record, claims)
    return assemble_bundle(record, flow, claims, signer)


def assemble_bundle(
    record: RunRecord, flow: Mapping[str, Any], claims: Sequence[Mapping[str, Any]], signer: Signer
) -> bytes:
    """As `build_bundle`, without looking whether the record is complete. `claims` are the parsed lines."""
    root = MerkleTree(record.claims).root
    # The report shows what a reader of the files will see: 5.0 is written, and read again, as 5.
    description = _settle(describe_run(record, flow, root, REPORT_VERSION))
    decisions, costs = _settle(record.decisions), _settle(record.cost_report)
    files = {
        CLAIMS: b"".join(line + b"\n" for line in record.claims),
        DECISIONS: canonical_json(decisions),
        SBOM: _canonical_sbom(record.sbom),
        SLOS: write_canonical(dict(record.slos)),
        COSTS: canonical_json(costs),
        MANIFEST_HASH: f"{record.flow_digest}\n".encode(),
        FLOW: record.flow_json,
        KEY_HINT: f"{signer.algorithm} {signer.hint}\n".encode(),
    }
    if record.trace is not None:
        files[TRACE] = record.trace
    files |= _sign_provenance(record, description, claims, signer)
    files[REPORT] = render_report(
        description,
        flow,
        claims,
        decisions=decisions,
        costs=costs,
        files=describe_files(files),
        key=files[KEY_HINT].decode().strip(),
    )
    files[INDEX] = canonical_json(write_index(files))
    digests = {name: digest_bytes(data) for name, data in files.items()}
    files[RECEIPT] = sign_statement(write_receipt(description, digests), signer)
    return write_archive(files)


def _settle(value: Mapping[str, Any]) -> dict[str, Any]:
    settled: dict[str, Any] = read_canonical(write_canonical(dict(value)), "a document", code="document")
    return settled


def _canonical_sbom(data: bytes) -> bytes:
    try:
        return write_canonical(json.loads(data))
    except (ValueError, RecursionError, ManifestError) as error:
        raise EvidenceError("the SBOM of the run is not JSON", code="sbom-invalid") from error


def describe_files(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Name, digest and size (bytes) of each file, sorted by name."""
    return [
        {"name": name, "digest": digest_bytes(files[name]), "size": len(files[name])}
        for name in sorted(files)
    ]


def write_index(files: Mapping[str, bytes]) -> dict[str, Any]:
    """index.json: every file but itself and the receipt, which binds it."""
    listed = {name: data for name, data in files.items() if name not in {INDEX, RECEIPT}}
    return {"schema": "urn:maestro:index:v1", "boundBy": RECEIPT, "files": describe_files(listed)}


def check_completeness(flow: Mapping[str, Any], steps: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """(code, step, fact) for every task of the flow that has not exactly one claim, and every other claim."""
    tasks = {task["id"] for task in flow["tasks"]}
    seen: set[str] = set()
    for step in steps:
        if step not in tasks:
            yield "claim-unexpected", step, f"there is a claim for {step!r}, which is no step of the flow"
        elif step in seen:
            yield "claim-duplicate", step, f"the step {step!r} has more than one claim"
        seen.add(step)
    for step in sorted(tasks - seen):
        yield "claim-missing", step, f"the step {step!r} has no claim"


def _check_record(record: RunRecord, claims: Sequence[Mapping[str, Any]]) -> None:
    for claim in claims:
        if (claim["run_id"], claim["flow_digest"]) != (record.run_id, record.flow_digest):
            raise EvidenceError(
                "a claim is of another run or flow",
                place=f"run {record.run_id}, step {claim['step']}",
                code="claim-foreign",
            )
    by_step = {claim["step"]: claim for claim in claims}
    for artifact in record.built:
        if artifact.digest not in claimed_outputs(by_step.get(artifact.step, {})):
            raise EvidenceError(
                f"the artifact {artifact.name!r} is not among the outputs of its step",
                place=f"run {record.run_id}, step {artifact.step}",
                code="built-unclaimed",
            )


def _sign_provenance(
    record: RunRecord,
    description: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    signer: Signer,
) -> dict[str, bytes]:
    by_step = {claim["step"]: claim for claim in claims}
    signed = {}
    for name, artifact in zip(name_provenance(record.built), record.built, strict=True):
        statement = write_provenance(artifact, description, by_step[artifact.step])
        signed[name] = sign_statement(statement, signer)
    return signed


def claimed_outputs(claim: Mapping[str, Any]) -> set[str]:
    """The digests that a step says it made: its output, and the files of it when it is a tree."""
    output = claim.get("output")
    if output is None:
        return set()
    return {output["digest"], *(item["digest"] for item in output.get("files", ()))}
