"""Milliseconds to make a bundle of 1,000 claims durable, against fsync + zip of the same bytes."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path

CLAIMS = 1_000


def maestro(folder: Path) -> dict[str, float]:
    from maestro_dagster.evidence.bundle import build_bundle
    from maestro_dagster.evidence.key import load_signer, make_key

    make_key(folder / "keys")
    signer = load_signer(folder / "keys")
    record = _record()
    build_bundle(record, signer)  # warm: imports
    before = time.perf_counter()
    data = build_bundle(record, signer)
    _write(folder / "evidence.zip", data)
    return {"value": (time.perf_counter() - before) * 1000}


def zip_and_fsync(folder: Path) -> dict[str, float]:
    from maestro_dagster.evidence.bundle import build_bundle
    from maestro_dagster.evidence.key import load_signer, make_key

    make_key(folder / "keys")
    with zipfile.ZipFile(io.BytesIO(build_bundle(_record(), load_signer(folder / "keys")))) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()}
    before = time.perf_counter()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    _write(folder / "plain.zip", memory.getvalue())
    return {"value": (time.perf_counter() - before) * 1000}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _record():  # noqa: ANN202 - imports stay out of the module
    from maestro_dagster.evidence.claim import claim_bytes
    from maestro_dagster.evidence.interface import Claim, OutputRef, RunRecord
    from maestro_dagster.evidence.sbom import assemble_sbom
    from maestro_dagster.manifest.model import Flow
    from maestro_dagster.manifest.normal import flow_digest, flow_json

    flow = Flow.model_validate(
        {
            "name": "evidence-bench",
            "version": "1.0.0",
            "tasks": [
                {"id": f"s{number}", "uses": "pkg:text/template@1.0.0", "with": {"template": "x"}}
                for number in range(CLAIMS)
            ],
        }
    )
    digest = flow_digest(flow)
    when = "2026-01-01T00:00:00.000Z"
    claims = tuple(
        claim_bytes(
            Claim(
                run_id="bench",
                flow=flow.name,
                flow_digest=digest,
                step=task.id,
                uses=task.uses,
                status="done",
                attempts=1,
                started_at=when,
                finished_at=when,
                duration_ms=number,
                config_digest=f"sha256:{number:064x}",
                output=OutputRef(digest=f"sha256:{number:064x}", media_type="text/plain", size=200),
                cost_usd="0.000012345",
            )
        )
        for number, task in enumerate(flow.tasks)
    )
    del assemble_sbom
    return RunRecord(
        run_id="bench",
        status="succeeded",
        started_at=when,
        finished_at=when,
        flow_json=flow_json(flow),
        flow_digest=digest,
        claims=claims,
        decisions={"allow": True, "verdicts": []},
        sbom=b'{"bomFormat":"CycloneDX","specVersion":"1.6"}',
        slos={},
        cost_report={"total_usd": "0.012345"},
    )
