"""Whether the files of a bundle agree with each other and with the receipt that signed their digests.

The signer is trusted by now, the content still is not: a signer's mistake or lie that contradicts
itself is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.evidence.bundle import (
    CLAIMS,
    COSTS,
    DECISIONS,
    FLOW,
    INDEX,
    KEY_HINT,
    MANIFEST_HASH,
    RECEIPT,
    REPORT,
    SBOM,
    SLOS,
    TRACE,
    check_completeness,
    claimed_outputs,
    describe_files,
)
from maestro_dagster.evidence.claim import read_claim
from maestro_dagster.evidence.document import read_canonical
from maestro_dagster.evidence.dsse import read_statement
from maestro_dagster.evidence.interface import BuiltArtifact
from maestro_dagster.evidence.merkle import MerkleTree, verify_inclusion
from maestro_dagster.evidence.problem import Problem
from maestro_dagster.evidence.report import render_report
from maestro_dagster.evidence.statement import PROVENANCE_TYPE, name_provenance, write_provenance
from maestro_dagster.evidence.trust import Trust
from maestro_dagster.manifest.money import format_nano, parse_usd
from maestro_dagster.manifest.normal import flow_from_normal, flow_json


@dataclass(slots=True)
class Content:
    """What the checks share. `claims` holds (line number from 1, claim) of every readable line."""

    files: Mapping[str, bytes]
    predicate: Mapping[str, Any]
    flow: dict[str, Any] = field(default_factory=dict)
    decisions: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)
    claims: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def by_step(self) -> dict[str, dict[str, Any]]:
        return {claim["step"]: claim for _, claim in self.claims}


def check_content(
    files: Mapping[str, bytes], predicate: Mapping[str, Any], trust: Trust
) -> tuple[list[Problem], int]:
    """All problems found, and the number of claims. The digests of `files` were checked before."""
    content = Content(files, predicate)
    problems = [*_read_documents(content), *_read_claims(content)]
    if problems:
        return problems, len(content.claims)
    checks: Sequence[Callable[[Content], Iterator[Problem]]] = (
        _check_tree,
        _check_whole,
        _check_links,
        _check_costs,
        _check_admission,
        lambda content: _check_provenance(content, trust),
        lambda content: _check_texts(content, trust),
    )
    for check in checks:
        problems += check(content)
    if not problems:
        problems += _check_report(content)
    return problems, len(content.claims)


def _read_documents(content: Content) -> Iterator[Problem]:
    files = content.files
    documents: dict[str, dict[str, Any]] = {}
    for name in (FLOW, DECISIONS, COSTS, SLOS, SBOM):
        try:
            document = read_canonical(files[name], "the file", code="document")
        except EvidenceError as error:
            yield Problem(error.error_code, name, error.fact)
            continue
        if not isinstance(document, dict):
            yield Problem("document-invalid", name, "the file is not a JSON object")
            continue
        documents[name] = document
    if len(documents) < 5:  # noqa: PLR2004 - the five of the loop
        return
    content.flow, content.decisions, content.costs = (documents[name] for name in (FLOW, DECISIONS, COSTS))
    if documents[SBOM].get("bomFormat") != "CycloneDX":
        yield Problem("sbom-invalid", SBOM, "the file is not a CycloneDX document")
    try:
        normal = flow_json(flow_from_normal(files[FLOW])) == files[FLOW]
    except ManifestError as error:
        yield Problem("flow-invalid", FLOW, error.fact)
        return
    signed = content.predicate["flow"]
    if not normal:
        yield Problem("flow-invalid", FLOW, "the file is not the normal form of its flow")
    elif (signed["name"], signed["version"]) != (content.flow["name"], content.flow["version"]):
        yield Problem("flow-digest", RECEIPT, "the receipt names another flow than flow.json")


def _read_claims(content: Content) -> Iterator[Problem]:
    text = content.files[CLAIMS]
    content.lines = text.split(b"\n")
    if content.lines.pop() != b"":
        yield Problem("claim-invalid", CLAIMS, "the last line does not end")
    for number, line in enumerate(content.lines, 1):
        try:
            content.claims.append((number, read_claim(line)))
        except EvidenceError as error:
            yield Problem(error.error_code, _line(number), error.fact)


def _line(number: int, step: str = "") -> str:
    return f"{CLAIMS} line {number}" + (f", step {step}" if step else "")


def _check_tree(content: Content) -> Iterator[Problem]:
    signed = content.predicate["claims"]
    tree = MerkleTree(content.lines)
    if signed["count"] != tree.size:
        yield Problem("claim-count", CLAIMS, f"{tree.size} claims, signed were {signed['count']}")
    if signed["root"] != tree.root.hex() or signed["tree"] != "rfc6962-sha256":
        yield Problem("root-mismatch", CLAIMS, "the root over the claims is not the one that was signed")
        return
    for number, claim in content.claims:
        proof = tree.inclusion_proof(number - 1)
        if not verify_inclusion(content.lines[number - 1], number - 1, tree.size, proof, tree.root):
            yield Problem("inclusion", _line(number, claim["step"]), "the claim is not under the signed root")


def _check_whole(content: Content) -> Iterator[Problem]:
    run, flow = content.predicate["run"], content.predicate["flow"]
    for code, step, fact in check_completeness(content.flow, (claim["step"] for _, claim in content.claims)):
        yield Problem(code, f"step {step}", fact)
    kinds = {task["id"]: task["uses"] for task in content.flow["tasks"]}
    for number, claim in content.claims:
        if (claim["run_id"], claim["flow"], claim["flow_digest"]) != (
            run["id"],
            flow["name"],
            flow["digest"],
        ):
            yield Problem(
                "claim-foreign", _line(number, claim["step"]), "the claim is of another run or flow"
            )
        if claim["uses"] != kinds.get(claim["step"], claim["uses"]):
            yield Problem(
                "claim-kind", _line(number, claim["step"]), "the flow names another kind for the step"
            )


def _check_links(content: Content) -> Iterator[Problem]:
    claims = content.by_step
    tasks = {task["id"]: task for task in content.flow["tasks"]}
    for number, claim in content.claims:
        task = tasks.get(claim["step"])
        if task is None:
            continue
        place, linked = _line(number, claim["step"]), set()
        for item in claim.get("inputs", ()):
            kind, _, source = item["source"].partition(":")
            if kind == "step":
                linked.add(source)
                yield from _check_link(place, source, item["digest"], task, claims)
            elif kind == "run":
                linked.add(source.rpartition("/")[2])
            elif kind != "asset" or source not in task.get("assets", {}).values():
                yield Problem("link-undeclared", place, f"the flow gives the step no input {item['source']}")
        for need in task.get("needs", ()):
            made = need in claims and claims[need].get("output") is not None
            if claim["status"] == "done" and made and need not in linked:
                yield Problem("link-missing", place, f"the claim does not say what it read of step {need}")


def _check_link(
    place: str, source: str, digest: str, task: Mapping[str, Any], claims: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    if source not in task.get("needs", ()):
        yield Problem("link-undeclared", place, f"the flow gives the step no input of step {source}")
    output = claims.get(source, {}).get("output")
    if output is None:
        yield Problem("link-broken", place, f"it read an output of step {source}, which claims none")
    elif output["digest"] != digest:
        yield Problem(
            "link-broken", place, f"it read {digest} of step {source}, which made {output['digest']}"
        )


def _check_costs(content: Content) -> Iterator[Problem]:
    try:
        charged, stated, summed = _read_costs(content.costs)
    except (KeyError, TypeError, AttributeError, ManifestError):
        yield Problem("cost-invalid", COSTS, "the report lacks totals or has amounts that are no money")
        return
    if summed != stated:
        yield Problem(
            "cost-total", COSTS, f"the steps sum to {summed[0] or 'unknown'} USD, stated is {stated[0]}"
        )
    claims = content.by_step
    for step in sorted(charged.keys() - claims.keys() - {""}):  # "": what the run cost outside its steps
        yield Problem("cost-unexpected", COSTS, f"it charges {step!r}, which is no step of the flow")
    for step, claim in claims.items():
        cost = charged.get(step, "0")
        if not _same_usd(claim["cost_usd"], cost):
            fact = f"the claim says {claim['cost_usd'] or 'unknown'} USD, the report {cost or 'unknown'}"
            yield Problem("cost-mismatch", f"step {step}", fact)


_Totals = tuple[str | None, str]


def _read_costs(costs: Mapping[str, Any]) -> tuple[dict[str, str | None], _Totals, _Totals]:
    """(total by step, stated totals, summed totals): all and known. Raises for anything that is no money."""
    charged: dict[str, str | None] = {}
    known = unknown = 0
    for line in costs["by_step"]:
        step, total = line["step"], line["total_usd"]
        if not isinstance(step, str) or step in charged:
            raise TypeError(step)
        known += parse_usd(line["known_usd"])
        unknown += total is None
        charged[step] = None if total is None else format_nano(parse_usd(total))
    total = None if unknown else format_nano(sum(parse_usd(total) for total in charged.values() if total))
    return charged, (costs["total_usd"], costs["known_usd"]), (total, format_nano(known))


def _same_usd(left: str | None, right: str | None) -> bool:
    if left is None or right is None:
        return left is right
    return parse_usd(left) == parse_usd(right)


def _check_admission(content: Content) -> Iterator[Problem]:
    if content.decisions.get("allow") is True:
        return
    for number, claim in content.claims:
        if claim["status"] in ("done", "failed"):
            yield Problem(
                "ran-though-denied", _line(number, claim["step"]), "a step ran that was not allowed"
            )


def _check_provenance(content: Content, trust: Trust) -> Iterator[Problem]:
    claims, built = content.by_step, []
    names = sorted(name for name in content.files if name.startswith("provenance/"))
    for name in names:
        try:
            statement = read_statement(trust.open_statement(content.files[name]), PROVENANCE_TYPE)
            artifact = read_artifact(statement)
            claim = claims[artifact.step]
            again = write_provenance(artifact, content.predicate, claim)
        except EvidenceError as error:
            yield Problem(error.error_code, name, error.fact)
            continue
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            yield Problem("provenance-invalid", name, "it does not describe a step of this run")
            continue
        built.append(artifact)
        if again != statement:
            yield Problem("provenance-invalid", name, "it says something else than the claim of its step")
        if artifact.digest not in claimed_outputs(claim):
            fact = f"{artifact.digest} is not among the outputs of step {artifact.step}"
            yield Problem("provenance-unclaimed", name, fact)
    if len(built) == len(names) and list(name_provenance(built)) != names:
        yield Problem("provenance-invalid", "provenance", "its files are not named after what they describe")


def read_artifact(statement: Mapping[str, Any]) -> BuiltArtifact:
    """What a statement of provenance is about. One that is malformed raises KeyError, TypeError, ..."""
    subject = statement["subject"][0]
    build = statement["predicate"]["buildDefinition"]
    if not isinstance(subject["name"], str):
        raise TypeError(subject)
    sources = [item for item in build["resolvedDependencies"] if "uri" in item]
    return BuiltArtifact(
        name=subject["name"],
        digest=_join_digest(subject["digest"]),
        step=build["externalParameters"]["step"],
        dependencies=tuple((item["uri"], _join_digest(item["digest"])) for item in sources),
    )


def _join_digest(digest: Mapping[str, str]) -> str:
    ((algorithm, value),) = digest.items()
    return f"{algorithm}:{value}"


def _check_texts(content: Content, trust: Trust) -> Iterator[Problem]:
    if content.files[MANIFEST_HASH] != f"{content.predicate['flow']['digest']}\n".encode():
        yield Problem("manifest-hash", MANIFEST_HASH, "it is not the digest of flow.json")
    line = trust.signer_line()
    if line is not None and content.files[KEY_HINT] != f"{line}\n".encode():
        yield Problem("key-hint", KEY_HINT, "it names another key than the one that signed")
    if TRACE in content.files:
        try:
            read_canonical(content.files[TRACE], "the trace", code="trace")
        except EvidenceError as error:
            yield Problem(error.error_code, TRACE, error.fact)


def _check_report(content: Content) -> Iterator[Problem]:
    data = {name: content.files[name] for name in content.files if name not in {REPORT, INDEX, RECEIPT}}
    try:
        again = render_report(
            content.predicate,
            content.flow,
            [claim for _, claim in content.claims],
            decisions=content.decisions,
            costs=content.costs,
            files=describe_files(data),
            key=content.files[KEY_HINT].decode().strip(),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        yield Problem("report-unknown", REPORT, "this release cannot render the report of the bundle again")
        return
    if again != content.files[REPORT]:
        yield Problem("report-mismatch", REPORT, "it shows something else than the data of the bundle")
