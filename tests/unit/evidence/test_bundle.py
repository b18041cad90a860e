from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.bundle import FIXED_FILES, build_bundle
from maestro_dagster.evidence.interface import BuiltArtifact, RunRecord
from maestro_dagster.evidence.key import P256, KeySigner, load_signer, make_key
from maestro_dagster.evidence.verify import verify_bundle

Record = Callable[..., RunRecord]


def open_zip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def payload_of(data: bytes) -> dict[str, Any]:
    import base64

    return json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))


def test_the_same_run_gives_the_same_bytes_and_they_verify(record: Record, signer: KeySigner) -> None:
    data = build_bundle(record(), signer)
    assert data == build_bundle(record(), signer)
    report = verify_bundle(data, [signer.public_pem])
    assert report.to_json()["problems"] == []
    assert (report.ok, report.claims, report.run_id, report.flow) == (True, 3, "run-01", "daily-brief")


def test_p256_too(record: Record, tmp_path: Path) -> None:
    make_key(tmp_path, P256)
    signer = load_signer(tmp_path)
    data = build_bundle(record(), signer)
    assert data == build_bundle(record(), signer)
    assert verify_bundle(data, [signer.public_pem]).ok


def test_the_files(record: Record, signer: KeySigner) -> None:
    files = open_zip(build_bundle(record(), signer))
    assert set(files) == FIXED_FILES | {"provenance/00-brief.txt.sigstore.json"}
    assert list(files) == sorted(files)
    assert files["manifest-hash.txt"].decode().strip() == record().flow_digest
    assert files["signed-claims.jsonl"] == b"".join(line + b"\n" for line in record().claims)
    assert files["key-hint.txt"].decode() == f"ed25519 {signer.hint}\n"
    index = json.loads(files["index.json"])
    assert {item["name"] for item in index["files"]} == set(files) - {"index.json", "receipt.sigstore.json"}


def test_the_receipt_binds_every_other_file(record: Record, signer: KeySigner) -> None:
    files = open_zip(build_bundle(record(), signer))
    statement = payload_of(files["receipt.sigstore.json"])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:maestro:receipt:v1"
    assert set(statement["predicate"]["files"]) == set(files) - {"receipt.sigstore.json"}
    assert statement["subject"][1]["digest"]["sha256"] == record().flow_digest.removeprefix("sha256:")
    assert statement["predicate"]["context"]["git"] == {"sha": "a" * 40, "before": "0" * 40}


def test_provenance_is_slsa_v1(record: Record, signer: KeySigner, digest: Callable[[str], str]) -> None:
    sources = (("git+file:///srv/repo@refs/heads/main", "c" * 40),)
    built = (BuiltArtifact("a package-1.0.whl", digest("summary"), "summary", sources),)
    files = open_zip(build_bundle(record(built=built), signer))
    (name,) = (name for name in files if name.startswith("provenance/"))
    assert name == "provenance/00-a_package-1.0.whl.sigstore.json"
    statement = payload_of(files[name])
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["name"] == "a package-1.0.whl"
    build = statement["predicate"]["buildDefinition"]
    assert set(build) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert build["resolvedDependencies"][0]["digest"] == {"gitCommit": "c" * 40}
    assert build["resolvedDependencies"][1]["name"] == "step:parse"
    assert statement["predicate"]["runDetails"]["metadata"]["invocationId"] == "run-01"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda record: record(left_out=("parse",)), "claim-missing"),
        (lambda record: replace(record(), claims=record().claims * 2), "claim-duplicate"),
        (lambda record: replace(record(), flow_digest="sha256:" + "0" * 64), "flow-digest"),
        (lambda record: record(changes={"parse": {"run_id": "run-02"}}), "claim-foreign"),
        (lambda record: record(changes={"parse": {"step": "other"}}), "claim-unexpected"),
        (lambda record: record(built=(BuiltArtifact("x", "sha256:" + "0" * 64, "rss"),)), "built-unclaimed"),
        (lambda record: record(sbom=b"{"), "sbom-invalid"),
        (lambda record: replace(record(), claims=(b"{}",) * 3), "claim-invalid"),
    ],
)
def test_what_could_not_be_verified_is_not_signed(
    record: Record, signer: KeySigner, make: Callable[[Record], RunRecord], code: str
) -> None:
    with pytest.raises(EvidenceError) as caught:
        build_bundle(make(record), signer)
    assert caught.value.error_code == code


def test_every_kind_of_claim_verifies(record: Record, signer: KeySigner) -> None:
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": []}
    changes = {
        "b": {"status": "failed", "error": {"code": "step", "fact": "it broke"}, "cost_usd": None},
        "c": {"status": "skipped", "reason": "step b failed", "inputs": (), "cost_usd": "0"},
        "d": {"status": "cancelled", "reason": "by ada"},
        "e": {"status": "reused", "reused_from": "run-00", "cost_usd": "0"},
    }
    data = build_bundle(record(needs, changes=changes, status="failed", built=()), signer)
    assert verify_bundle(data, [signer.public_pem]).problems == ()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DOCUMENT = st.dictionaries(st.text(max_size=5), VALUE, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(context=DOCUMENT, facts=DOCUMENT, more=DOCUMENT, slos=DOCUMENT)
def test_no_value_makes_a_bundle_that_cannot_be_verified(
    record: Record,
    signer: KeySigner,
    context: dict[str, Any],
    facts: dict[str, Any],
    more: dict[str, Any],
    slos: dict[str, Any],
) -> None:
    verdicts = [{"pack": more, "violations": [more], "warnings": [slos], "digest": facts}]
    made = record(
        changes={"parse": {"facts": facts, "model": context, "error": more, "iterations": (slos,)}},
        decisions=more | {"allow": True, "engine": slos, "verdicts": verdicts},
        cost_report=record().cost_report | {"by_kind": [facts, {"events": context}], "by_model": [more]},
        context=context,
        slos=slos,
    )
    data = build_bundle(made, signer)
    assert verify_bundle(data, [signer.public_pem]).problems == ()
    assert build_bundle(made, signer) == data


def test_many_artifacts_of_one_name(record: Record, signer: KeySigner, digest: Callable[[str], str]) -> None:
    built = tuple(BuiltArtifact("dist", digest("rss"), "rss") for _ in range(101))
    data = build_bundle(record(built=built), signer)
    assert "provenance/100-dist.sigstore.json" in open_zip(data)
    assert verify_bundle(data, [signer.public_pem]).problems == ()
