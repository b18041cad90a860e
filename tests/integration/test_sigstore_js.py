"""What we sign, judged by a verifier that shares no line with ours: npm @sigstore/verify."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from maestro_dagster.evidence.archive import read_archive
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.claim import claim_bytes
from maestro_dagster.evidence.interface import BuiltArtifact, Claim, OutputRef, RunRecord
from maestro_dagster.evidence.key import ED25519, P256, load_signer, make_key
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes

SCRIPT = Path(__file__).with_name("verify.mjs")
WHEN = "2025-03-01T10:00:00.000Z"


@pytest.fixture(scope="module")
def modules(repository: Path) -> Path:
    folder = Path(os.environ.get("MAESTRO_NODE_MODULES", repository / "node_modules"))
    if shutil.which("node") is None or not (folder / "@sigstore" / "verify").is_dir():
        pytest.skip("needs node and `npm install @sigstore/verify @sigstore/bundle` (MAESTRO_NODE_MODULES)")
    return folder


def judge(modules: Path, key: Path, files: list[Path]) -> list[str | None]:
    done = subprocess.run(
        ["node", SCRIPT, modules, key, *files], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    verdicts: list[str | None] = json.loads(done.stdout)
    return verdicts


def make_record() -> RunRecord:
    task = {"id": "build", "uses": "pkg:python/build@1.0.0"}
    flow = canonical_json({"schema": "maestro.flow/v1", "name": "shop", "version": "1.0.0", "tasks": [task]})
    wheel, sdist = digest_bytes(b"wheel"), digest_bytes(b"sdist")
    output = OutputRef(digest_bytes(b"dist"), "application/json", 4, (("a.tar.gz", sdist), ("a.whl", wheel)))
    claim = Claim(
        run_id="run-01", flow="shop", flow_digest=digest_bytes(flow), step="build", uses=task["uses"],
        status="done", attempts=1, started_at=WHEN, finished_at=WHEN, duration_ms=0,
        config_digest=digest_bytes(b""), output=output,
    )  # fmt: skip
    return RunRecord(
        run_id="run-01", status="succeeded", started_at=WHEN, finished_at=WHEN, flow_json=flow,
        flow_digest=digest_bytes(flow), claims=(claim_bytes(claim),), decisions={"allow": True},
        sbom=b'{"bomFormat":"CycloneDX"}', slos={}, cost_report={},
        built=(BuiltArtifact("a.whl", wheel, "build"), BuiltArtifact("a.tar.gz", sdist, "build")),
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", [ED25519, P256])
def test_it_accepts_ours_and_refuses_what_was_changed(modules: Path, tmp_path: Path, algorithm: str) -> None:
    make_key(tmp_path / "keys", algorithm)
    make_key(tmp_path / "other", algorithm)
    files = read_archive(build_bundle(make_record(), load_signer(tmp_path / "keys")))
    signed = {name: data for name, data in files.items() if name.endswith(".sigstore.json")}
    assert len(signed) == 3
    good, bad = [], []
    for number, data in enumerate(signed.values()):
        good.append(tmp_path / f"good-{number}.json")
        good[-1].write_bytes(data)
        for what, changed in change(data):
            bad.append(tmp_path / f"bad-{number}-{what}.json")
            bad[-1].write_bytes(changed)
    key = tmp_path / "keys" / "maestro.pub.pem"
    assert judge(modules, key, good) == [None] * len(good)
    assert None not in judge(modules, key, bad)
    assert None not in judge(modules, tmp_path / "other" / "maestro.pub.pem", good)


def change(data: bytes) -> list[tuple[str, bytes]]:
    """The same bundle with one byte of the payload, the signature or the payload's type changed."""
    changed = []
    document = json.loads(data)
    payload = bytearray(base64.b64decode(document["dsseEnvelope"]["payload"]))
    for position in (0, len(payload) // 2, len(payload) - 1):
        again, other = json.loads(data), bytearray(payload)
        other[position] ^= 1
        again["dsseEnvelope"]["payload"] = base64.b64encode(other).decode()
        changed.append((f"payload-{position}", json.dumps(again).encode()))
    signature = bytearray(base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    again = json.loads(data)
    again["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    changed.append(("signature", json.dumps(again).encode()))
    again = json.loads(data)
    again["dsseEnvelope"]["payloadType"] += "x"
    changed.append(("type", json.dumps(again).encode()))
    return changed
