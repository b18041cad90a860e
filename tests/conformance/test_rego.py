"""OPA's own cases: what the allow-list admits is answered right; everything else is refused aloud."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.child import RegoChild
from maestro_dagster.policy.query import run_query


@pytest.fixture(scope="module")
def child() -> Iterator[RegoChild]:
    found = RegoChild(seconds=10)
    yield found
    found.close()


def test_no_answer_is_silently_wrong(child: RegoChild, corpus: Path) -> None:
    path = corpus / "04-rego" / "opa_v1_cases.json"
    if not path.is_file():
        pytest.skip("the corpus has no Rego cases")
    verdicts: Counter[str] = Counter()
    wrong = []
    for case in json.loads(path.read_text())["cases"]:
        verdict = judge(child, case)
        verdicts[verdict] += 1
        if verdict == "wrong":
            wrong.append(case["note"])
    assert wrong == []
    # A list that refuses everything would be right as well.
    assert verdicts["right"] >= 0.4 * verdicts.total(), verdicts


def judge(child: RegoChild, case: dict[str, Any]) -> str:
    """right, wrong, refused (outside the allow-list) or failed (an error that says so)."""
    document = case.get("input")
    if "input_term" in case:
        try:
            document = json.loads(case["input_term"])
        except ValueError:
            return "refused"  # Rego text such as a set: no document of ours
    modules = [(f"{number}.rego", text) for number, text in enumerate(case["modules"])]
    try:
        found = run_query(child, modules, case["query"], data=case.get("data"), document=document)
    except PolicyError as error:
        if error.error_code == "policy-language-refused":
            return "refused"
        return "failed" if "want_result" in case else "right"
    if "want_result" not in case:
        return "wrong"
    return "right" if unordered(found) == unordered(case["want_result"]) else "wrong"


def unordered(value: Any) -> Any:
    """Sets come as arrays in an order of the engine's own."""
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((unordered(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
