"""Every package-version pair of the corpus gets the right answer."""

from __future__ import annotations

import json
from pathlib import Path

from maestro_dagster.steps.osv import is_affected


def test_every_pair_of_the_corpus(corpus: Path) -> None:
    folder = corpus / "05-osv"
    records = {}
    for item in json.loads((folder / "advisories.json").read_bytes())["advisories"]:
        record = item.get("osv", item)
        records[record["id"]] = record
    wrong = []
    cases = json.loads((folder / "cases.json").read_bytes())["cases"]
    for case in cases:
        if case["advisory"] not in records:
            continue
        found = is_affected(records[case["advisory"]], case["ecosystem"], case["package"], case["version"])
        if found != case["affected"]:
            wrong.append(case)
    assert len(cases) > 100
    assert wrong == []
