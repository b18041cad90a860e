"""The two statements that a run signs: its receipt, and SLSA provenance for each artifact it built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from maestro_dagster.evidence.dsse import STATEMENT_TYPE
from maestro_dagster.evidence.interface import BuiltArtifact, RunRecord

RECEIPT_TYPE: Final = "urn:maestro:receipt:v1"
PROVENANCE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:maestro:flow:v1"
BUILDER_ID: Final = "urn:maestro:engine:v1"
CLAIMS_SUBJECT: Final = "signed-claims.jsonl#rfc6962-root"

_SHA1: Final = re.compile(r"(?:sha1:|gitCommit:)?([0-9a-f]{40})")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")
_NAME_LIMIT: Final = 100


def describe_run(record: RunRecord, flow: Mapping[str, Any], root: bytes, report: str) -> dict[str, Any]:
    """What the receipt says of the run itself, before the digests of the files are known."""
    return {
        "run": {
            "id": record.run_id,
            "status": record.status,
            "startedAt": record.started_at,
            "finishedAt": record.finished_at,
        },
        "flow": {"name": flow["name"], "version": flow["version"], "digest": record.flow_digest},
        "claims": {"count": len(record.claims), "root": root.hex(), "tree": "rfc6962-sha256"},
        "context": dict(record.context),
        "warnings": list(record.warnings),
        "report": report,
    }


def write_receipt(description: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """`files` maps the name of every other file of the bundle to its digest."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": CLAIMS_SUBJECT, "digest": {"sha256": description["claims"]["root"]}},
            {"name": "flow.json", "digest": digest_set(description["flow"]["digest"])},
        ],
        "predicateType": RECEIPT_TYPE,
        "predicate": {**description, "files": dict(files)},
    }


def write_provenance(
    artifact: BuiltArtifact, description: Mapping[str, Any], claim: Mapping[str, Any]
) -> dict[str, Any]:
    """SLSA provenance v1 (slsa.dev/spec/v1.0/provenance) of one artifact; `claim` is its step's."""
    run = description["run"]
    inputs = [
        {"name": item["source"], "digest": digest_set(item["digest"]), "mediaType": item["media_type"]}
        for item in claim.get("inputs", ())
    ]
    sources = [{"uri": uri, "digest": digest_set(digest)} for uri, digest in artifact.dependencies]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": artifact.name, "digest": digest_set(artifact.digest)}],
        "predicateType": PROVENANCE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"flow": dict(description["flow"]), "step": artifact.step},
                "internalParameters": {
                    "uses": claim["uses"],
                    "configDigest": claim["config_digest"],
                    "isolation": claim.get("isolation") or "",
                },
                "resolvedDependencies": sources + inputs,
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID},
                "metadata": {
                    "invocationId": run["id"],
                    "startedOn": claim.get("started_at") or run["startedAt"],
                    "finishedOn": claim["finished_at"],
                },
            },
        },
    }


def name_provenance(built: Sequence[BuiltArtifact]) -> tuple[str, ...]:
    """The file of each artifact's provenance: numbered, because two artifacts may share a name."""
    width = max(2, len(str(len(built))))
    return tuple(
        f"provenance/{number:0{width}d}-{_UNSAFE.sub('_', artifact.name)[:_NAME_LIMIT]}.sigstore.json"
        for number, artifact in enumerate(built)
    )


def digest_set(digest: str) -> dict[str, str]:
    """An in-toto DigestSet of `sha256:<hex>`, or of a Git commit in 40 hexadecimal digits."""
    if (commit := _SHA1.fullmatch(digest)) is not None:
        return {"gitCommit": commit.group(1)}
    algorithm, _, value = digest.rpartition(":")
    return {algorithm or "sha256": value}
