from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.export import export_claim, verify_claim
from maestro_dagster.evidence.interface import RunRecord
from maestro_dagster.evidence.key import KeySigner
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.manifest.canonical import canonical_json

Record = Callable[..., RunRecord]


@pytest.fixture
def proof(record: Record, signer: KeySigner) -> bytes:
    needs = {f"s{number}": [] for number in range(7)}
    return export_claim(build_bundle(record(needs, built=()), signer), "s5")


def codes(data: bytes, signer: KeySigner) -> list[str]:
    return [problem.code for problem in verify_claim(data, KeyTrust([signer.public_pem])).problems]


def test_one_claim_is_proven_without_the_others(proof: bytes, signer: KeySigner, stranger: KeySigner) -> None:
    report = verify_claim(proof, KeyTrust([signer.public_pem]))
    assert (report.ok, report.claims, report.run_id) == (True, 1, "run-01")
    assert json.loads(proof)["claim"]["step"] == "s5"
    assert b'"s4"' not in proof
    assert codes(proof, stranger) == ["signer-unknown"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"index": 4}, "inclusion"),
        ({"index": -1}, "inclusion"),
        ({"index": True}, "proof-invalid"),
        ({"index": "5"}, "proof-invalid"),
        ({"size": 8}, "inclusion"),
        ({"path": []}, "inclusion"),
        ({"path": ["zz"]}, "proof-invalid"),
        ({"path": 7}, "proof-invalid"),
        ({"schema": "other"}, "proof-invalid"),
        ({"more": 1}, "proof-invalid"),
        ({"receipt": {}}, "envelope-invalid"),
        ({"claim": {}}, "claim-invalid"),
    ],
)
def test_a_changed_proof_is_refused(
    proof: bytes, signer: KeySigner, change: dict[str, object], code: str
) -> None:
    assert codes(canonical_json(json.loads(proof) | change), signer) == [code]


def test_another_claim_is_not_proven(proof: bytes, signer: KeySigner) -> None:
    document = json.loads(proof)
    document["claim"]["cost_usd"] = "0"
    assert codes(canonical_json(document), signer) == ["inclusion"]
    document = json.loads(proof)
    document["path"][0] = document["path"][0].upper()
    assert codes(canonical_json(document), signer) == ["proof-invalid"]
    assert codes(proof + b"\n", signer) == ["proof-not-canonical"]


def test_every_byte_of_a_proof(proof: bytes, signer: KeySigner) -> None:
    for position in range(0, len(proof), 3):
        broken = bytearray(proof)
        broken[position] ^= 1 + position % 255
        assert codes(bytes(broken), signer) != [], position


def test_a_step_without_a_claim(record: Record, signer: KeySigner) -> None:
    with pytest.raises(EvidenceError) as caught:
        export_claim(build_bundle(record(), signer), "nobody")
    assert caught.value.error_code == "claim-missing"
    with pytest.raises(EvidenceError):
        export_claim(b"junk", "rss")
