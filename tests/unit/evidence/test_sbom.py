from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.interface import BuiltArtifact, Claim
from maestro_dagster.evidence.sbom import assemble_sbom

PART = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "metadata": {"component": {"type": "application", "bom-ref": "app", "name": "shop", "version": "1"}},
    "components": [
        {"type": "library", "bom-ref": "dep", "name": "click", "version": "8", "purl": "pkg:pypi/click@8"},
        {"type": "library", "name": "unreferenced"},
    ],
    "dependencies": [{"ref": "app", "dependsOn": ["dep"]}, {"ref": "dep"}],
    "vulnerabilities": [{"bom-ref": "v", "id": "EX-1", "affects": [{"ref": "dep"}]}],
}
FLOW = {
    "name": "daily-brief",
    "version": "1.0.0",
    "tasks": [
        {"id": "parse", "uses": "pkg:feed/parse@1.0.0", "needs": ["rss"]},
        {"id": "rss", "uses": "pkg:http/get@1.0.0"},
        {"id": "summary", "uses": "pkg:llm/generate@1.0.0", "needs": ["parse"]},
    ],
}


@pytest.fixture
def make(claim: Callable[..., Claim], digest: Callable[[str], str]) -> Callable[..., bytes]:
    model = {"provider": "builtin", "model": "extract"}
    claims = [
        claim("rss", uses="pkg:http/get@1.0.0"),
        claim("parse", ["rss"], uses="pkg:feed/parse@1.0.0"),
        claim("summary", ["parse"], uses="pkg:llm/generate@1.0.0", model=model),
    ]

    def assemble(**changes: Any) -> bytes:
        values: dict[str, Any] = {
            "run_id": "run-01",
            "finished_at": "2025-03-01T10:00:02.000Z",
            "flow": FLOW,
            "flow_digest": digest("flow"),
            "claims": claims,
            "built": (BuiltArtifact("brief.txt", digest("summary"), "summary"),),
        }
        return assemble_sbom(**(values | changes))

    return assemble


def check(data: bytes) -> dict[str, Any]:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())
    assert problem is None, problem
    document: dict[str, Any] = json.loads(data)
    refs = [item["bom-ref"] for item in document["components"] if "bom-ref" in item]
    refs.append(document["metadata"]["component"]["bom-ref"])
    assert len(refs) == len(set(refs))
    for item in document["dependencies"]:
        assert item["ref"] in refs
        assert set(item.get("dependsOn", ())) <= set(refs)
    return document


def test_the_strict_schema_accepts_it_and_it_is_the_same_each_time(make: Callable[..., bytes]) -> None:
    document = check(make())
    assert make() == make()
    assert document["serialNumber"] != check(make(run_id="run-02"))["serialNumber"]
    assert {item["type"] for item in document["components"]} == {"library", "machine-learning-model", "file"}
    assert {item.get("purl") for item in document["components"]} >= {"pkg:http/get@1.0.0"}


def test_dependencies_follow_the_flow(make: Callable[..., bytes]) -> None:
    graph = {item["ref"]: item["dependsOn"] for item in check(make())["dependencies"]}
    assert graph["artifact:summary"] == [
        "kind:pkg:llm/generate@1.0.0",
        "model:builtin/extract",
        "artifact:parse",
    ]
    assert graph["built:0"] == ["artifact:summary"]
    assert "artifact:rss" in graph["flow:daily-brief"]


def test_the_sboms_of_steps_join(make: Callable[..., bytes]) -> None:
    document = check(make(merged=(json.dumps(PART).encode(), json.dumps(PART).encode())))
    names = {item.get("bom-ref"): item["name"] for item in document["components"]}
    assert names["part0/dep"] == names["part1/dep"] == "click"
    graph = {item["ref"]: item.get("dependsOn") for item in document["dependencies"]}
    assert graph["part0/app"] == ["part0/dep"]
    assert {"part0/app", "part1/app"} <= set(graph["flow:daily-brief"])
    assert "part0/dep" not in graph["flow:daily-brief"]
    assert document["vulnerabilities"][1]["affects"] == [{"ref": "part1/dep"}]


HEAD = b'{"bomFormat":"CycloneDX","specVersion":'


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"[]",
        b"{}",
        HEAD + b'"1.7"}',
        HEAD + b'"1.6","components":7}',
        HEAD + b'"1.6","components":[7]}',
        HEAD + b'"1.6","dependencies":[{"ref":"a","dependsOn":7}]}',
    ],
)
def test_what_is_no_sbom_is_refused(make: Callable[..., bytes], part: bytes) -> None:
    with pytest.raises(EvidenceError) as caught:
        make(merged=(part,))
    assert caught.value.error_code == "sbom-invalid"


def test_a_run_without_outputs(make: Callable[..., bytes], claim: Callable[..., Claim]) -> None:
    check(make(claims=(), built=()))
    check(make(claims=[claim("rss", status="failed")], built=()))


def test_valid_documents_of_others_join(make: Callable[..., bytes], corpus: Path) -> None:
    folder = corpus / "02-cyclonedx"
    paths = sorted((folder / "1.5").glob("valid-*.json")) + sorted((folder / "1.6").glob("valid-*.json"))
    if not paths:
        pytest.skip(f"no CycloneDX documents in {folder}")
    for path in paths:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(
            make(merged=(path.read_bytes(),)).decode()
        )
        assert problem is None, (path.name, problem)


def test_importing_the_room_is_cheap() -> None:
    rooms = ("sbom", "bundle", "verify", "export", "key", "keyless", "attestation")
    heavy = ("cyclonedx", "cryptography", "sigstore", "dagster", "litellm", "pyarrow")
    modules = ", ".join(f"maestro_dagster.evidence.{room}" for room in rooms)
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
