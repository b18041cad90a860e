"""Every manifest of `valid/` is clean; every one of `invalid/` gets the findings written beside it.

After a wanted change of messages: MAESTRO_WRITE_EXPECTED=1 pytest tests/manifests, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maestro_dagster.manifest.interface import KindCatalogue
from maestro_dagster.manifest.normal import flow_digest
from maestro_dagster.manifest.read import lint_file

HERE = Path(__file__).parent
VALID = sorted(path for path in (HERE / "valid").iterdir() if path.suffix in (".yaml", ".json"))
INVALID = sorted(path for path in (HERE / "invalid").iterdir() if path.suffix in (".yaml", ".json"))


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_valid_manifests_have_no_finding(path: Path, catalogue: KindCatalogue) -> None:
    result = lint_file(path, catalogue, path.name)
    found = [str(each) for each in result.diagnostics]
    expected = path.with_suffix(path.suffix + ".expected")
    assert found == (expected.read_text().splitlines() if expected.exists() else [])
    assert result.flow is not None


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_invalid_manifests_get_their_findings(path: Path, catalogue: KindCatalogue) -> None:
    result = lint_file(path, catalogue, path.name)
    found = "".join(f"{each}\n" for each in result.diagnostics)
    expected = path.with_suffix(path.suffix + ".expected")
    if os.environ.get("MAESTRO_WRITE_EXPECTED") == "1":
        expected.write_text(found)
    assert result.flow is None
    assert found == expected.read_text()
    assert all(each.remedy for each in result.diagnostics), "a finding without a remedy helps nobody"


def test_the_same_flow_in_three_dialects_has_one_digest() -> None:
    group = [path for path in VALID if path.name.startswith("brief_")]
    digests = set()
    for path in group:
        flow = lint_file(path).flow
        assert flow is not None
        digests.add(flow_digest(flow))
    assert len(group) >= 4
    assert len(digests) == 1
