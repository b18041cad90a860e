"""The shipped packs: their own tests, no rule that can never fire, and OPA says the same."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.engine import EmbeddedEngine, open_policy_engine
from maestro_dagster.policy.interface import Decision
from maestro_dagster.policy.testing import run_pack_tests

PACKS = ("budget", "licence", "pii", "residency")
COUNT = 5000 if os.environ.get("MAESTRO_SOAK") == "1" else 300


def load_generator() -> ModuleType:
    """`documents.py` beside this file; tests are no package."""
    spec = importlib.util.spec_from_file_location(
        "policy_documents", Path(__file__).with_name("documents.py")
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def policies(repository: Path) -> Path:
    return repository / "policies"


@pytest.fixture(scope="module")
def engine(policies: Path) -> Iterator[EmbeddedEngine]:
    found = EmbeddedEngine(policies, seconds=20)
    yield found
    found.close()


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    make = load_generator().make_document
    rng = random.Random(20260101)
    return [make(rng) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def decisions(engine: EmbeddedEngine, documents: list[dict[str, Any]]) -> list[Decision]:
    return [engine.evaluate(document) for document in documents]


def test_the_packs_pass_their_tests(policies: Path) -> None:
    tests = run_pack_tests(policies)
    assert {test.pack for test in tests} == set(PACKS)
    assert [test for test in tests if not test.passed] == []
    # A test that the runner does not see would be green for ever.
    written = sum(
        len(re.findall(r"^test_\w+", path.read_text(), re.MULTILINE))
        for path in policies.rglob("*_test.rego")
    )
    assert len(tests) == written


def test_opa_runs_the_same_tests(policies: Path, opa: str) -> None:
    done = subprocess.run([opa, "test", str(policies)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"PASS: {len(run_pack_tests(policies))}/" in done.stdout


def test_opa_finds_the_packs_strict_and_formatted(policies: Path, opa: str) -> None:
    subprocess.run([opa, "check", "--strict", str(policies)], check=True)
    listed = subprocess.run([opa, "fmt", "--list", str(policies)], capture_output=True, text=True, check=True)
    assert listed.stdout == ""


def test_a_pack_without_tests_fails(policies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(policies / "pii", folder / "pii")
    (folder / "pii" / "pii_test.rego").write_text("package maestro.pii_test\n\nnot_a_test := true\n")
    with pytest.raises(PolicyError) as caught:
        run_pack_tests(folder)
    assert caught.value.error_code == "policy-tests-missing"


def test_a_broken_rule_is_noticed(policies: Path, tmp_path: Path) -> None:
    # The test of the seeds' pack did not notice that a banned country was misspelt.
    folder = tmp_path / "policies"
    shutil.copytree(policies / "residency", folder / "residency")
    data = folder / "residency" / "data.json"
    data.write_text(data.read_text().replace('"KP"', '"KB"'))
    assert [test.name for test in run_pack_tests(folder) if not test.passed]


def test_every_rule_of_the_packs_fires(policies: Path, decisions: list[Decision]) -> None:
    written = {
        name
        for path in policies.glob("*/*.rego")
        if not path.name.endswith("_test.rego")
        for name in re.findall(r'"rule": "([a-z-]+)"', path.read_text())
    }
    fired = {violation.rule for decision in decisions for violation in decision.violations}
    # The model of a flow knows no other classes, and the project asks for no budget.
    assert written - fired == {"licence-unknown", "budget-missing"}
    for pack in PACKS:
        verdicts = [next(one for one in decision.verdicts if one.pack == pack) for decision in decisions]
        assert {verdict.allow for verdict in verdicts} == {True, False}


def test_every_violation_says_what_to_change(decisions: list[Decision]) -> None:
    for decision in decisions:
        for violation in decision.violations:
            assert violation.rule.startswith((violation.pack, "pack-")), violation
            assert violation.message
            assert violation.remedy


def test_opa_gives_the_same_verdicts(
    decisions: list[Decision], policies: Path, documents: list[dict[str, Any]], opa: str
) -> None:
    wanted = ask_opa(opa, policies, documents)
    allowed = 0
    for document, decision, want in zip(documents, decisions, wanted, strict=True):
        for verdict in decision.verdicts:
            answer = want[verdict.pack]
            allow = answer["allow"] == [True] and answer["violation"] == [[]]
            allowed += allow
            assert verdict.allow == allow, (verdict, document)
            told = [violation.to_json() for violation in verdict.violations]
            said = [{**one, "pack": verdict.pack} for one in answer["violation"][0]]
            if said:
                assert sorted(told, key=str) == sorted(said, key=lambda one: str(in_order(one)))
    assert 0.1 < allowed / (len(PACKS) * len(decisions)) < 0.9  # the generator finds both sides


def test_opa_as_the_engine(
    engine: EmbeddedEngine, policies: Path, documents: list[dict[str, Any]], opa: str
) -> None:
    real = open_policy_engine(policies, kind="opa", command=opa)
    try:
        for document in documents[:5]:
            ours, theirs = engine.evaluate(document), real.evaluate(document)
            assert theirs.engine.startswith("opa 1.")
            assert ours.verdicts == theirs.verdicts
            assert ours.input_digest == theirs.input_digest
    finally:
        real.close()


def ask_opa(command: str, policies: Path, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per document and pack the values of allow and violation, each in a list that is empty if undefined."""
    answers = ", ".join(
        f'"{pack}": {{"allow": [x | x := data.maestro.{pack}.allow with input as one], '
        f'"violation": [x | x := data.maestro.{pack}.violation with input as one]}}'
        for pack in PACKS
    )
    done = subprocess.run(
        [command, "eval", "--format=json", "--stdin-input", "--strict-builtin-errors", f"--data={policies}",
         f"[{{{answers}}} | some one in input]"],
        input=json.dumps(documents), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    return found


def in_order(violation: dict[str, str]) -> dict[str, str]:
    return {key: violation[key] for key in ("rule", "pack", "step", "path", "message", "remedy")}


def test_the_verdict_on_a_large_flow_is_quick(
    engine: EmbeddedEngine, documents: list[dict[str, Any]]
) -> None:
    document = dict(next(one for one in documents if one.get("tasks")))
    document["tasks"] = [{**document["tasks"][0], "id": f"t{number}"} for number in range(2_000)]
    start = time.process_time()
    assert len(engine.evaluate(document).verdicts) == len(PACKS)
    assert time.process_time() - start < 10, "the parent only serialises"
