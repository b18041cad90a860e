"""What a stranger, or a signer that lies, may try with a bundle; each attempt must be refused by its code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.archive import read_archive, write_archive
from maestro_dagster.evidence.bundle import RECEIPT, build_bundle
from maestro_dagster.evidence.dsse import read_envelope, read_statement, sign_statement
from maestro_dagster.evidence.interface import InputRef, OutputRef, RunRecord
from maestro_dagster.evidence.key import KeySigner
from maestro_dagster.evidence.statement import PROVENANCE_TYPE as SLSA
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.manifest.canonical import canonical_json

Record = Callable[..., RunRecord]
Refused = Callable[[bytes], list[str]]
Force = Callable[..., bytes]


def test_no_key_is_no_verdict(record: Record, signer: KeySigner) -> None:
    with pytest.raises(KeyMissingError) as caught:
        verify_bundle(build_bundle(record(), signer), [])
    assert caught.value.exit_code == 2


def test_a_strangers_bundle(record: Record, stranger: KeySigner, refused: Refused) -> None:
    data = build_bundle(record(), stranger)
    assert verify_bundle(data, [stranger.public_pem]).ok
    assert refused(data) == ["signer-unknown"]


def test_a_stranger_under_our_hint(
    record: Record, signer: KeySigner, stranger: KeySigner, refused: Refused
) -> None:
    class Impostor:
        algorithm, hint, public_pem, sign = signer.algorithm, signer.hint, signer.public_pem, stranger.sign

    assert refused(build_bundle(record(), Impostor())) == ["signature-invalid"]


def test_a_claim_left_out(record: Record, signer: KeySigner, refused: Refused) -> None:
    files = read_archive(build_bundle(record(), signer))
    lines = files["signed-claims.jsonl"].splitlines(keepends=True)
    for number in range(3):
        left = b"".join(lines[:number] + lines[number + 1 :])
        assert refused(write_archive(files | {"signed-claims.jsonl": left})) == ["digest-mismatch"]


def test_a_claim_left_out_and_all_rebuilt_by_a_stranger(
    record: Record, stranger: KeySigner, force: Force, refused: Refused
) -> None:
    data = force(record(left_out=("summary",), built=()), stranger)
    assert refused(data) == ["signer-unknown"]


def test_a_claim_left_out_by_the_signer(record: Record, force: Force, refused: Refused) -> None:
    assert refused(force(record(left_out=("summary",), built=()))) == ["claim-missing"]


def test_evidence_without_a_claim_for_the_middle_step_is_refused_for_that_reason(
    record: Record, force: Force, signer: KeySigner, digest: Callable[[str], str]
) -> None:
    # Three steps, claims for two of them, the last one naming the first one's output as its input.
    changes = {
        "summary": {"inputs": (InputRef("step:rss", digest("rss"), "text/plain"),), "cost_usd": "0.0021"}
    }
    data = force(record(left_out=("parse",), changes=changes))
    found = {problem.code: problem for problem in verify_bundle(data, [signer.public_pem]).problems}
    assert "parse" in found["claim-missing"].place
    assert "parse" in found["claim-missing"].fact
    assert "link-undeclared" in found


OTHER = OutputRef("sha256:" + "1" * 64, "text/plain", 1)
CHANGED_CLAIMS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("rss", {"run_id": "run-02"}, ["claim-foreign"]),
    ("rss", {"flow": "other-flow"}, ["claim-foreign"]),
    ("rss", {"flow_digest": "sha256:" + "0" * 64}, ["claim-foreign"]),
    ("rss", {"uses": "pkg:shell/run@1.0.0"}, ["claim-kind"]),
    ("rss", {"output": OTHER}, ["link-broken"]),
    ("rss", {"output": None}, ["link-broken"]),
    ("rss", {"inputs": (InputRef("step:summary", OTHER.digest, "a/b"),)}, ["link-undeclared", "link-broken"]),
    ("rss", {"inputs": (InputRef("asset:x/y", OTHER.digest, "a/b"),)}, ["link-undeclared"]),
    ("rss", {"inputs": (InputRef("elsewhere", OTHER.digest, "a/b"),)}, ["link-undeclared"]),
    ("rss", {"cost_usd": "0.002"}, ["cost-mismatch"]),
    ("rss", {"cost_usd": None}, ["cost-mismatch"]),
    ("parse", {"inputs": ()}, ["link-missing"]),
    ("summary", {"output": OTHER}, ["provenance-unclaimed"]),
    ("rss", {"step": "x"}, ["claim-unexpected", "claim-missing", "link-broken", "cost-unexpected"]),
]


@pytest.mark.parametrize(("step", "changes", "codes"), CHANGED_CLAIMS)
def test_a_claim_that_contradicts_the_rest(
    record: Record, force: Force, refused: Refused, step: str, changes: dict[str, Any], codes: list[str]
) -> None:
    built = () if codes != ["provenance-unclaimed"] else record().built
    made = record(changes={step: changes}, cost_report=record().cost_report, built=built)
    assert refused(force(made))[: len(codes)] == codes


CHANGED_FIELDS: list[tuple[dict[str, Any], list[str]]] = [
    ({"decisions": {"allow": False}}, ["ran-though-denied"] * 3),
    ({"decisions": {}}, ["ran-though-denied"] * 3),
    ({"decisions": {"allow": "yes"}}, ["ran-though-denied"] * 3),
    ({"sbom": b'{"bomFormat":"SPDX"}'}, ["sbom-invalid"]),
    ({"cost_report": {"total_usd": "0"}}, ["cost-invalid"]),
    ({"cost_report": {"total_usd": "0", "known_usd": "0", "by_step": [{}]}}, ["cost-invalid"]),
    ({"cost_report": {"total_usd": "0", "known_usd": "0", "by_step": []}}, ["cost-mismatch"] * 3),
]


@pytest.mark.parametrize(("fields", "codes"), CHANGED_FIELDS)
def test_a_record_that_contradicts_its_claims(
    record: Record, force: Force, refused: Refused, fields: dict[str, Any], codes: list[str]
) -> None:
    assert refused(force(record(**fields))) == codes


@pytest.mark.parametrize("total", ["0.002", None, "0.0030"])
def test_a_total_that_is_not_the_sum(
    record: Record, force: Force, refused: Refused, total: str | None
) -> None:
    assert refused(force(record(cost_report=record().cost_report | {"total_usd": total}))) == ["cost-total"]


def test_a_claim_twice(record: Record, force: Force, refused: Refused) -> None:
    made = record()
    assert refused(force(replace(made, claims=made.claims + made.claims[:1]))) == ["claim-duplicate"]


def change(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: data})


def append(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: files[name] + data})


@pytest.mark.parametrize(
    ("edit", "codes"),
    [
        (change("report.html", b"<h1>All is well</h1>"), ["report-mismatch"]),
        (append("report.html", b" "), ["report-mismatch"]),
        (change("index.json", b"{}"), ["index-mismatch"]),
        (change("manifest-hash.txt", b"sha256:" + b"0" * 64 + b"\n"), ["manifest-hash"]),
        (change("key-hint.txt", b"ed25519 somebody\n"), ["key-hint"]),
        (append("signed-claims.jsonl", b"\n"), ["claim-invalid"]),
        (append("signed-claims.jsonl", b"{}"), ["claim-invalid"]),
        (append("sbom.json", b" "), ["document-not-canonical"]),
        (change("slos.json", b"[]"), ["document-invalid"]),
        (change("slos.json", b"\xff"), ["document-invalid"]),
        (change("cost-report.json", b'{"a":1,"a":1}'), ["document-not-canonical"]),
        (change("provenance/00-brief.txt.sigstore.json", b"{}"), ["envelope-invalid"]),
        (change("flow.json", b'{"name":"daily-brief"}'), ["flow-digest"]),
    ],
)
def test_a_signer_that_shows_something_else_than_it_signed(
    record: Record,
    force: Force,
    refused: Refused,
    edit: Callable[[dict[str, bytes]], None],
    codes: list[str],
) -> None:
    assert refused(force(record(), edit=edit)) == codes


def test_a_flow_that_is_none(record: Record, force: Force, refused: Refused) -> None:
    flow = json.loads(record().flow_json)
    for broken in (flow | {"tasks": []}, flow | {"schema": "other"}, flow | {"region": None}):
        assert refused(force(record(flow_json=canonical_json(broken)))) == ["flow-invalid"]


@pytest.mark.parametrize(
    ("describe", "codes"),
    [
        (lambda predicate: predicate["run"].update(status="perfect"), ["report-mismatch"]),
        (
            lambda predicate: predicate["run"].update(id="run-02"),
            ["claim-foreign"] * 3 + ["provenance-invalid"],
        ),
        (lambda predicate: predicate["run"].update(id=7), ["receipt-invalid"]),
        (lambda predicate: predicate["claims"].update(root="0" * 64), ["root-mismatch"]),
        (lambda predicate: predicate["claims"].update(tree="flat"), ["root-mismatch"]),
        (lambda predicate: predicate["claims"].update(count=2), ["claim-count"]),
        (lambda predicate: predicate["claims"].update(count=True), ["receipt-invalid"]),
        (lambda predicate: predicate["flow"].update(name="other"), ["flow-digest"]),
        (lambda predicate: predicate["flow"].update(digest="sha256:" + "0" * 64), ["flow-digest"]),
        (lambda predicate: predicate.update(report="99"), ["report-unknown"]),
        (lambda predicate: predicate.update(extra=1), ["receipt-invalid"]),
        (lambda predicate: predicate["files"].pop("slos.json"), ["file-unexpected"]),
        (lambda predicate: predicate["files"].update({"more.txt": "sha256:0"}), ["file-missing"]),
        (lambda predicate: predicate.update(context=[]), ["receipt-invalid"]),
        (lambda predicate: predicate.update(context={"actor": "eve"}), ["report-mismatch"]),
    ],
)
def test_a_receipt_that_contradicts_the_files(
    record: Record,
    force: Force,
    refused: Refused,
    describe: Callable[[dict[str, Any]], None],
    codes: list[str],
) -> None:
    assert refused(force(record(), describe=describe)) == codes


def test_a_signed_statement_of_another_kind_is_no_receipt(
    record: Record, signer: KeySigner, refused: Refused
) -> None:
    files = read_archive(build_bundle(record(), signer))
    files[RECEIPT] = files["provenance/00-brief.txt.sigstore.json"]
    assert refused(write_archive(files)) == ["statement-invalid"]
    files[RECEIPT] = sign_statement({"predicateType": "urn:maestro:receipt:v1"}, signer)
    assert refused(write_archive(files)) == ["statement-invalid"]


def test_provenance_of_another_run_is_refused(
    record: Record, signer: KeySigner, force: Force, refused: Refused
) -> None:
    other = record(
        run_id="run-02", changes={step: {"run_id": "run-02"} for step in ("rss", "parse", "summary")}
    )
    name = "provenance/00-brief.txt.sigstore.json"
    foreign = read_archive(build_bundle(other, signer))[name]
    assert refused(force(record(), edit=change(name, foreign))) == ["provenance-invalid"]


def test_provenance_by_a_second_trusted_key_is_refused(
    record: Record, signer: KeySigner, stranger: KeySigner, force: Force
) -> None:
    name = "provenance/00-brief.txt.sigstore.json"
    foreign = read_archive(build_bundle(record(), stranger))[name]
    data = force(record(), edit=change(name, foreign))
    report = verify_bundle(data, [signer.public_pem, stranger.public_pem])
    assert [problem.code for problem in report.problems] == ["signer-changed"]


def test_files_added_or_taken_away(record: Record, signer: KeySigner, refused: Refused) -> None:
    files = read_archive(build_bundle(record(), signer))
    assert refused(write_archive(files | {"README.md": b""})) == ["file-unexpected"]
    assert refused(write_archive(files | {"../x": b""})) == ["file-unexpected"]
    extra = {"provenance/01-more.sigstore.json": b"{}"}
    assert refused(write_archive(files | extra)) == ["file-unexpected"]
    for name in files:
        left = {other: data for other, data in files.items() if other != name}
        assert "file-missing" in refused(write_archive(left))


def test_inputs_of_other_runs_and_assets_are_links_too(
    record: Record, signer: KeySigner, digest: Callable[[str], str]
) -> None:
    flow = json.loads(record().flow_json)
    flow["tasks"][1]["assets"] = {"feeds": "shop/feeds"}  # tasks are sorted: parse, rss, summary
    changes = {
        "parse": {"inputs": (InputRef("run:run-00/rss", digest("old"), "text/plain"),)},
        "rss": {"inputs": (InputRef("asset:shop/feeds", digest("feeds"), "text/plain"),)},
    }
    made = record(flow_json=canonical_json(flow), changes=changes)
    assert verify_bundle(build_bundle(made, signer), [signer.public_pem]).problems == ()


def test_files_that_cannot_be_read(tmp_path: Path, signer: KeySigner) -> None:
    keys = [signer.public_pem]
    with pytest.raises(EvidenceError) as caught:
        verify_bundle(tmp_path / "none.zip", keys)
    assert caught.value.error_code == "bundle-missing"
    with pytest.raises(EvidenceError) as caught:
        verify_bundle(tmp_path, keys)
    assert caught.value.error_code == "bundle-unreadable"
    huge = tmp_path / "huge.zip"
    with huge.open("wb") as file:
        file.truncate(300 * 1024 * 1024)
    with pytest.raises(EvidenceError) as caught:
        verify_bundle(huge, keys)
    assert caught.value.error_code == "bundle-too-large"


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "0", "rss", "1.5", "sha256:0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["step", "total_usd", "known_usd", "pack", "rule"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(VALUE, VALUE, VALUE, st.sampled_from(["0", None, 7]))
def test_no_signed_content_crashes_the_verifier(
    record: Record, force: Force, refused: Refused, by_step: Any, verdicts: Any, more: Any, total: Any
) -> None:
    costs = {"total_usd": total, "known_usd": "0", "by_step": by_step, "by_kind": more, "by_model": [more]}
    decisions = {"allow": True, "verdicts": [verdicts, {"violations": [more], "warnings": more}]}
    assert refused(force(record(decisions=decisions, cost_report=costs))) != []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_signed_provenance_crashes_the_verifier(
    record: Record, signer: KeySigner, force: Force, refused: Refused, data: st.DataObject
) -> None:
    name = "provenance/00-brief.txt.sigstore.json"
    statement = read_statement(
        read_envelope(read_archive(build_bundle(record(), signer))[name]).payload, SLSA
    )
    holder, key = data.draw(st.sampled_from(list(places(statement))))
    before, holder[key] = holder[key], data.draw(VALUE)
    broken = sign_statement(statement, signer)
    assert refused(force(record(), edit=change(name, broken))) != [] or holder[key] == before


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def test_a_trust_without_a_key_judges_the_rest_too(record: Record, signer: KeySigner) -> None:
    class Anybody:
        def open_statement(self, data: bytes) -> bytes:
            return read_envelope(data).payload

        def signer_line(self) -> None:
            return None

    files = read_archive(build_bundle(record(), signer))
    assert verify_bundle(write_archive(files), trust=Anybody()).ok
    files["slos.json"] = b"{}"
    assert not verify_bundle(write_archive(files), trust=Anybody()).ok


def test_another_spelling_of_the_receipt(record: Record, signer: KeySigner, refused: Refused) -> None:
    files = read_archive(build_bundle(record(), signer))
    receipt = files[RECEIPT]
    for again, code in (
        (receipt + b"\n", "envelope-not-canonical"),
        (receipt.replace(b'"keyid":""', b'"keyid":"x"'), "envelope-not-canonical"),
        (receipt.replace(b'"tlogEntries":[]', b'"tlogEntries":[{}]'), "envelope-not-canonical"),
        (json.dumps(json.loads(receipt)).encode(), "envelope-not-canonical"),
        (b"[]", "envelope-invalid"),
        (b"[" * 100_000, "envelope-invalid"),
    ):
        assert refused(write_archive(files | {RECEIPT: again})) == [code]
