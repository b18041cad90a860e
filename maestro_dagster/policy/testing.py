"""The tests of a pack: its rules `test_*`, run in the embedded engine.

A pack without any test fails: a runner that is content with nothing says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.child import RegoChild
from maestro_dagster.policy.pack import Pack, read_packs

_TEST = re.compile(r"^(?:todo_)?(test_\w*)", re.MULTILINE)
_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PackTest:
    """One rule. `problem` says what the engine said when it was neither true nor false."""

    pack: str
    file: str
    name: str
    passed: bool
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "pack": self.pack,
            "file": self.file,
            "name": self.name,
            "passed": self.passed,
            "problem": self.problem,
        }


def run_pack_tests(folder: Path, names: Sequence[str] = ()) -> tuple[PackTest, ...]:
    """The outcome of each test of the named packs, of all when none is named.

    Raises PolicyError `policy-tests-missing` when a pack has none, `policy-pack-unknown` when there is
    no pack of that name, and what reading the packs raises.
    """
    packs = {pack.name: pack for pack in read_packs(folder)}
    for name in names:
        if name not in packs:
            raise PolicyError(
                f"there is no pack {name!r}",
                place=str(folder),
                remedy=f"choose one of {', '.join(packs) or 'none: the folder is empty'}",
                code="policy-pack-unknown",
            )
    if not packs:
        raise PolicyError(
            "there is no policy pack", place=str(folder), remedy="add one: `maestro init`", code="no-packs"
        )
    child = RegoChild()
    try:
        return tuple(test for name in names or packs for test in _run_pack(child, packs[name]))
    finally:
        child.close()


def _run_pack(child: RegoChild, pack: Pack) -> list[PackTest]:
    if pack.problem is not None:
        raise pack.problem
    # Two files of one package may share a name; the engine then takes them as one rule.
    rules = {
        f"data.{package[1]}.{name}": (file, name)
        for file, text in pack.tests
        if (package := _PACKAGE.search(text)) is not None
        for name in _TEST.findall(text)
    }
    if not rules:
        raise PolicyError(
            f"the pack {pack.name} has no test",
            place=pack.name,
            remedy=f"write rules `test_...` in {pack.name}/{pack.name}_test.rego",
            code="policy-tests-missing",
        )
    key = f"{pack.digest} with tests"
    answer = child.ask(
        {
            "op": "load",
            "key": key,
            "modules": [*pack.modules, *pack.tests],
            "data": pack.data,
            "checked": True,
        }
    )
    if "error" in answer:
        raise PolicyError(answer["error"]["message"], place=pack.name, code="pack-load-failed")
    return [_run_test(child, pack, key, rule, *rules[rule]) for rule in rules]


def _run_test(child: RegoChild, pack: Pack, key: str, rule: str, file: str, name: str) -> PackTest:
    try:
        answer = child.ask({"op": "evaluate", "key": key, "input": None, "rules": [rule]})
    except PolicyError as error:
        return PackTest(pack.name, file, name, passed=False, problem=error.fact)
    if "error" in answer:
        return PackTest(pack.name, file, name, passed=False, problem=answer["error"]["message"])
    value = answer["values"][0]
    return PackTest(pack.name, file, name, passed=value.get("value") is True)
