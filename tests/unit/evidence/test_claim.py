from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.claim import claim_bytes, parse_claim
from maestro_dagster.evidence.interface import Claim, InputRef, OutputRef
from maestro_dagster.manifest.canonical import canonical_json

DIGEST = st.integers(0, 2**256 - 1).map(lambda number: f"sha256:{number:064x}")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), SAFE, FLOAT, TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
FILES = st.lists(st.tuples(TEXT, DIGEST), max_size=2).map(tuple)
CLAIMS = st.builds(
    Claim,
    run_id=TEXT,
    flow=TEXT,
    flow_digest=DIGEST,
    step=TEXT,
    uses=TEXT,
    status=st.sampled_from(["done", "failed", "skipped", "cancelled", "reused"]),
    attempts=st.integers(0, 100),
    started_at=st.sampled_from([None, "2025-03-01T10:00:00.100Z"]),
    finished_at=st.just("2025-03-01T10:00:00Z"),
    duration_ms=st.integers(0, 10**12),
    config_digest=DIGEST,
    inputs=st.lists(st.builds(InputRef, TEXT, DIGEST, TEXT), max_size=2).map(tuple),
    output=st.none() | st.builds(OutputRef, DIGEST, TEXT, st.integers(0, 2**53 - 1), FILES),
    cost_usd=st.sampled_from([None, "0", "0.000000001", "12.5"]),
    isolation=st.none() | TEXT,
    egress=st.lists(TEXT, max_size=2).map(tuple),
    reused_from=st.none() | TEXT,
    error=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    reason=st.none() | TEXT,
    model=st.none() | OBJECT,
    facts=OBJECT,
    iterations=st.lists(OBJECT, max_size=2).map(tuple),
)  # fmt: skip


@given(CLAIMS)
def test_a_claim_survives_its_bytes(claim: Claim) -> None:
    line = claim_bytes(claim)
    assert parse_claim(line) == claim
    assert claim_bytes(parse_claim(line)) == line
    assert b"\n" not in line


def test_an_unknown_price_is_not_zero(claim: Callable[..., Claim]) -> None:
    assert json.loads(claim_bytes(claim(cost_usd=None)))["cost_usd"] is None
    assert json.loads(claim_bytes(claim(cost_usd="0")))["cost_usd"] == "0"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"step": 7}, "claim-invalid"),
        ({"status": "perfect"}, "claim-invalid"),
        ({"status": ["done"]}, "claim-invalid"),
        ({"output": {"digest": "md5:00", "media_type": "x", "size": 1}}, "claim-invalid"),
        ({"output": {"digest": "sha256:" + "A" * 64, "media_type": "x", "size": 1}}, "claim-invalid"),
        ({"attempts": True}, "claim-invalid"),
        ({"duration_ms": -1}, "claim-invalid"),
        ({"duration_ms": 1.5}, "claim-invalid"),
        ({"cost_usd": "1e3"}, "claim-invalid"),
        ({"cost_usd": 0.1}, "claim-invalid"),
        ({"cost_usd": "-1"}, "claim-invalid"),
        ({"finished_at": "yesterday"}, "claim-invalid"),
        ({"extra": 1}, "claim-invalid"),
        ({"schema": "urn:maestro:claim:v9"}, "claim-invalid"),
        ({"inputs": [{"source": "step:a"}]}, "claim-invalid"),
        ({"inputs": []}, "claim-not-canonical"),
        ({"facts": {}}, "claim-not-canonical"),
        ({"reason": None}, "claim-invalid"),
    ],
)
def test_a_malformed_claim_is_refused(claim: Callable[..., Claim], change: dict[str, Any], code: str) -> None:
    document = json.loads(claim_bytes(claim())) | change
    with pytest.raises(EvidenceError) as caught:
        parse_claim(canonical_json(document))
    assert caught.value.error_code == code


@pytest.mark.parametrize("missing", ["step", "cost_usd", "started_at", "config_digest", "schema"])
def test_a_claim_that_lacks_a_field_is_refused(claim: Callable[..., Claim], missing: str) -> None:
    document = json.loads(claim_bytes(claim()))
    del document[missing]
    with pytest.raises(EvidenceError, match="claim"):
        parse_claim(canonical_json(document))


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace(b'":', b'": ', 1),
        lambda text: text.replace(b'"rss"', b'"\\u0072ss"'),
        lambda text: text[:-1] + b',"step":"other"}',
        lambda text: json.dumps(dict(reversed(json.loads(text).items()))).encode(),
        lambda text: text + b" ",
    ],
)
def test_another_spelling_of_a_claim_is_refused(
    claim: Callable[..., Claim], spell: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_claim(spell(claim_bytes(claim())))
    assert caught.value.error_code == "claim-not-canonical"


@pytest.mark.parametrize("line", [b"", b"[]", b"nul", b"\xff", b"[" * 100_000, b'{"a":1e999}', b"9" * 5000])
def test_what_is_no_claim_is_refused(line: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_claim(line)
