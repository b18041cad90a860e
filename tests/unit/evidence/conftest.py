"""A small run as the engine would hand it over, and a key to sign it with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.evidence.archive import read_archive, write_archive
from maestro_dagster.evidence.bundle import INDEX, RECEIPT, assemble_bundle, write_index
from maestro_dagster.evidence.claim import claim_bytes
from maestro_dagster.evidence.dsse import sign_statement
from maestro_dagster.evidence.interface import (
    BuiltArtifact,
    Claim,
    ClaimStatus,
    InputRef,
    OutputRef,
    RunRecord,
)
from maestro_dagster.evidence.key import KeySigner, load_signer, make_key
from maestro_dagster.evidence.statement import write_receipt
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.evidence.verify import open_receipt, verify_bundle
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.manifest.money import format_nano, parse_usd

RUN = "run-01"
EMPTY: Mapping[str, Any] = {}


def digest_of(word: str) -> str:
    return digest_bytes(word.encode())


def make_flow(needs: Mapping[str, list[str]], name: str = "daily-brief") -> bytes:
    tasks = [
        {"id": step, "uses": "pkg:file/read@1.0.0", **({"needs": before} if before else {})}
        for step, before in sorted(needs.items())
    ]
    return canonical_json({"schema": "maestro.flow/v1", "name": name, "version": "1.0.0", "tasks": tasks})


def make_claim(flow_json: bytes, step: str, needs: list[str], changes: Mapping[str, Any] = EMPTY) -> Claim:
    changes = dict(changes)
    status: ClaimStatus = changes.pop("status", "done")
    ran = status in ("done", "failed")
    values: dict[str, Any] = {
        "run_id": RUN,
        "flow": "daily-brief",
        "flow_digest": digest_bytes(flow_json),
        "step": step,
        "uses": "pkg:file/read@1.0.0",
        "status": status,
        "attempts": 1 if ran else 0,
        "started_at": "2025-03-01T10:00:00.100Z" if ran else None,
        "finished_at": "2025-03-01T10:00:01.350Z",
        "duration_ms": 1250 if ran else 0,
        "config_digest": digest_of("config"),
        "inputs": tuple(InputRef(f"step:{need}", digest_of(need), "text/plain") for need in needs),
        "output": OutputRef(digest_of(step), "text/plain", 12) if status == "done" else None,
        "cost_usd": "0.001",
    }
    return Claim(**(values | changes))


def make_costs(claims: list[Claim]) -> dict[str, Any]:
    known = [(claim.step, claim.cost_usd) for claim in claims]
    total = format_nano(sum(parse_usd(cost) for _, cost in known if cost is not None))
    return {
        "total_usd": None if any(cost is None for _, cost in known) else total,
        "known_usd": total,
        "by_step": [
            {"step": step, "total_usd": cost, "known_usd": cost or "0"} for step, cost in sorted(known)
        ],
    }


def make_record(
    needs: Mapping[str, list[str]] | None = None,
    *,
    left_out: tuple[str, ...] = (),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: Any,
) -> RunRecord:
    """A run whose every step is done: `changes` are per step, `fields` of the record."""
    needs = {"rss": [], "parse": ["rss"], "summary": ["parse"]} if needs is None else needs
    flow_json = fields.pop("flow_json", None) or make_flow(needs)
    claims = [
        make_claim(flow_json, step, before, (changes or {}).get(step, {}))
        for step, before in needs.items()
        if step not in left_out
    ]
    values: dict[str, Any] = {
        "run_id": RUN,
        "status": "succeeded",
        "started_at": "2025-03-01T10:00:00.000Z",
        "finished_at": "2025-03-01T10:00:02.000Z",
        "flow_json": flow_json,
        "flow_digest": digest_bytes(flow_json),
        "claims": tuple(claim_bytes(claim) for claim in claims),
        "decisions": {
            "allow": True,
            "engine": "regorus",
            "verdicts": [
                {"pack": "pii", "digest": digest_of("pii"), "allow": True, "violations": [], "warnings": []}
            ],
        },
        "sbom": canonical_json({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}),
        "slos": {"push_to_first_step_ms": 900},
        "cost_report": make_costs(claims),
        "built": (BuiltArtifact("brief.txt", digest_of("summary"), "summary"),)
        if needs.get("summary")
        else (),
        "context": {"cause": "manual", "actor": "ada", "git": {"sha": "a" * 40, "before": "0" * 40}},
    }
    return RunRecord(**(values | fields))


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """`record(needs, left_out=, changes=, **fields)`: see `make_record`."""
    return make_record


@pytest.fixture
def digest() -> Callable[[str], str]:
    return digest_of


@pytest.fixture
def claim() -> Callable[..., Claim]:
    """`claim(step, needs, **changes)`: a claim of the default flow."""
    flow_json = make_flow({"rss": [], "parse": ["rss"], "summary": ["parse"]})
    return lambda step="rss", needs=(), **changes: make_claim(flow_json, step, list(needs), changes)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder)
    return folder


@pytest.fixture(scope="session")
def signer(keys: Path) -> KeySigner:
    return load_signer(keys)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> KeySigner:
    folder = tmp_path_factory.mktemp("stranger")
    make_key(folder)
    return load_signer(folder)


@pytest.fixture
def force(signer: KeySigner) -> Callable[..., bytes]:
    """Signs a record as it is, complete or not: a signer that lies. `edit(files)` may change the files
    before the receipt is made over them, `describe(predicate)` the receipt itself."""

    def build(
        record: RunRecord,
        by: KeySigner | None = None,
        edit: Callable[[dict[str, bytes]], None] | None = None,
        describe: Callable[[dict[str, Any]], None] | None = None,
    ) -> bytes:
        by = by or signer
        claims = [json.loads(line) for line in record.claims]
        data = assemble_bundle(record, json.loads(record.flow_json), claims, by)
        files = read_archive(data)
        predicate = open_receipt(files.pop(RECEIPT), KeyTrust([by.public_pem]))
        if edit is not None:
            index = files[INDEX]
            edit(files)
            if files[INDEX] is index:
                files[INDEX] = canonical_json(write_index(files))
            predicate["files"] = {name: digest_bytes(content) for name, content in files.items()}
        if describe is not None:
            describe(predicate)
        description = {name: value for name, value in predicate.items() if name != "files"}
        files[RECEIPT] = sign_statement(write_receipt(description, predicate["files"]), by)
        return write_archive(files)

    return build


@pytest.fixture
def refused(signer: KeySigner) -> Callable[[bytes], list[str]]:
    """The codes of what is wrong with a bundle, judged by the project's own key."""

    def judge(data: bytes) -> list[str]:
        report = verify_bundle(data, [signer.public_pem])
        assert report.ok is (not report.problems)
        return [problem.code for problem in report.problems]

    return judge
