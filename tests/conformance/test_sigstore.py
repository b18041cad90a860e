"""Bundles that others made, each with its verdict. What must be refused never passes, whatever else holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import EvidenceError, KeyMissingError
from maestro_dagster.evidence.attestation import verify_attestation
from maestro_dagster.evidence.keyless import KeylessTrust

# Good bundles that we refuse, and why. Fail closed: sigstore-python knows no log entries of this kind.
NOT_READ = {"intoto-with-custom-trust-root": "intoto/0.0.2"}


@pytest.fixture(scope="module")
def folder(corpus: Path) -> Path:
    found = corpus / "03-sigstore-intoto-slsa"
    if not (found / "expected.json").is_file():
        pytest.skip(f"no Sigstore cases in {found}")
    return found


def refusal(folder: Path, case: dict[str, Any]) -> str | None:
    """Why the case's bundle is refused, None when it is accepted."""
    try:
        trust = None
        keys = [(folder / case["key"]).read_bytes()] if case["key"] else []
        if not keys:
            trust = KeylessTrust(folder / case["trusted_root"], case["identity"], case["issuer"])
        bundle, artifact = ((folder / case[name]).read_bytes() for name in ("bundle", "artifact"))
        verify_attestation(bundle, artifact, keys=keys, keyless=trust)
    except (EvidenceError, KeyMissingError) as error:
        return str(error)
    return None


def cases(folder: Path) -> list[dict[str, Any]]:
    listed = json.loads((folder / "expected.json").read_text())["conformance"]
    needed = ("bundle", "artifact", "trusted_root", "key")
    return [case for case in listed if all((folder / case[name]).is_file() for name in needed if case[name])]


def test_every_case_gets_its_verdict(folder: Path) -> None:
    wrong = []
    for case in cases(folder):
        why = refusal(folder, case)
        verdict = "accept" if why is None else "reject"
        excused = verdict == "reject" and NOT_READ.get(case["case"], "\0") in (why or "")
        if verdict != case["verdict"] and not excused:
            wrong.append((case["case"], verdict, why))
    assert wrong == []
    assert len(cases(folder)) > 10


def test_a_good_bundle_under_another_name_is_refused(folder: Path) -> None:
    good = [case for case in cases(folder) if case["verdict"] == "accept" and not case["key"]]
    assert good
    for case in good:
        for change in (
            {"identity": "https://example.com/somebody"},
            {"issuer": "https://example.com"},
            {"identity": case["identity"][:-1]},
            {"artifact": case["bundle"]},
        ):
            assert refusal(folder, case | change) is not None, (case["case"], change)
        for change in ({"identity": ""}, {"issuer": ""}):
            with pytest.raises(KeyMissingError):
                KeylessTrust(folder / case["trusted_root"], **({"identity": "a", "issuer": "b"} | change))


def test_a_key_judges_no_certificate_and_a_certificate_no_key(folder: Path) -> None:
    keyed = [case for case in cases(folder) if case["key"] and case["verdict"] == "accept"]
    keyless = [case for case in cases(folder) if not case["key"] and case["verdict"] == "accept"]
    if not keyed:
        pytest.skip("no case signed by a key")
    for case in keyed:
        assert refusal(folder, case | {"key": None}) is not None
    for case in keyless:
        assert refusal(folder, case | {"key": keyed[0]["key"]}) is not None


def test_a_keyless_attestation_is_no_receipt(folder: Path) -> None:
    good = [case for case in cases(folder) if "dsse" in case["case"] and case["verdict"] == "accept"]
    for case in good:
        trust = KeylessTrust(folder / case["trusted_root"], case["identity"], case["issuer"])
        with pytest.raises(EvidenceError) as caught:
            trust.open_statement((folder / case["bundle"]).read_bytes() + b"\n")
        assert caught.value.error_code == "envelope-not-canonical"


@pytest.mark.parametrize("root", [b"", b"[]", b"{}", b'{"timestampAuthorities":[{"validFor":{"end":7}}]}'])
def test_a_trusted_root_that_is_none(tmp_path: Path, root: bytes) -> None:
    (tmp_path / "root.json").write_bytes(root)
    with pytest.raises(EvidenceError) as caught:
        KeylessTrust(tmp_path / "root.json", "identity", "issuer")
    assert caught.value.error_code == "trusted-root-invalid"
