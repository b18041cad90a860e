"""What a change touches, how risky that is, and what to test: worked out from paths, by fixed rules."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from maestro_dagster.steps.checkout import Change, Checkout

SCHEMA = "maestro.change-plan/v1"
RISKS = ("low", "medium", "high")
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Area:
    """Paths of one sort. The first area whose pattern matches a path has it."""

    name: str
    risk: str
    pattern: re.Pattern[str]
    test: str


def _area(name: str, risk: str, pattern: str, test: str) -> Area:
    return Area(name, risk, re.compile(pattern, re.IGNORECASE), test)


AREAS = (
    _area(
        "dependencies", "high",
        r"(^|/)(requirements[^/]*\.(txt|in|lock)|pyproject\.toml|setup\.(py|cfg)|[^/]*\.lock|package(-lock)?\.json|"
        r"go\.(mod|sum)|Cargo\.toml|pom\.xml|pylock[^/]*\.toml)$",
        "a clean install from the lock; the vulnerability scan; a build",
    ),
    _area(
        "delivery", "high",
        r"(^|/)(\.github|\.gitlab-ci|\.ci|deploy|helm|charts|terraform|k8s)(/|$|\.)|(^|/)(Dockerfile|Makefile|"
        r"Jenkinsfile)[^/]*$",
        "a dry run of the delivery from a clean checkout",
    ),
    _area(
        "tests", "low", r"(^|/)(tests?|spec|fixtures)/|(^|/)(test_[^/]+|[^/]+_test|conftest)\.\w+$",
        "the changed tests, and that each can fail",
    ),
    _area(
        "safety", "high",
        r"(auth|login|passw|secret|token|crypt|sign|permission|polic|session|sandbox)[^/]*\.\w+$",
        "denied and malformed input as well as allowed; no secret in output or logs",
    ),
    _area(
        "data", "high", r"(^|/)(migrations?|schemas?)/|\.(sql|proto|avsc)$",
        "up and down on a copy of real data; readers of the old form",
    ),
    _area("documents", "low", r"(^|/)docs?/|\.(md|rst|adoc)$|(^|/)(LICEN[CS]E|README|CHANGELOG)[^/]*$",
          "links and examples"),
    _area(
        "code", "medium", r"\.(py|pyi|js|jsx|ts|tsx|go|rs|java|kt|c|h|cc|cpp|cs|rb|php|swift|scala|sh)$",
        "the unit tests of the changed modules, then the whole suite",
    ),
    _area("settings", "medium", r"\.(ya?ml|toml|json|ini|cfg|conf|env)$",
          "start with the new settings, and without them"),
    _area("other", "low", r"", "what reads these files"),
)  # fmt: skip


def plan_change(checkout: Checkout, pyproject: bytes | None = None) -> dict[str, Any]:
    """The plan as JSON: areas with risk and files, tests to run, matrix of interpreters."""
    changed = checkout.changed or tuple(Change(file.path, "A") for file in checkout.files)
    groups: dict[str, list[Change]] = {}
    for change in changed:
        area = next(area for area in AREAS if area.pattern.search(change.path))
        groups.setdefault(area.name, []).append(change)
    areas = [
        {
            "area": area.name,
            "risk": area.risk,
            "files": len(groups[area.name]),
            "paths": [f"{change.status} {change.path}" for change in groups[area.name][:_SHOWN]],
            "test": area.test,
        }
        for area in AREAS
        if area.name in groups
    ]
    counts = {letter: sum(change.status[:1] == letter for change in changed) for letter in "AMDR"}
    return {
        "schema": SCHEMA,
        "generator": "rules",
        "commit": checkout.commit,
        "commits": [{"sha": commit.sha, "subject": commit.subject} for commit in checkout.commits[:_SHOWN]],
        "changes": {
            "files": len(changed),
            "added": counts["A"], "modified": counts["M"], "deleted": counts["D"], "renamed": counts["R"],
            "whole_tree": not checkout.changed,
        },
        "risk": max((area.risk for area in AREAS if area.name in groups), key=RISKS.index, default="low"),
        "areas": areas,
        "tests": _find_tests(checkout, changed),
        "untested": _find_untested(checkout, changed),
        "matrix": read_matrix(pyproject),
    }  # fmt: skip


def write_plan(plan: dict[str, Any]) -> str:
    """The plan as Markdown. Paths are untrusted: they stand in code marks, without any of their own."""
    changes = plan["changes"]
    scope = "the whole tree" if changes["whole_tree"] else "this change"
    lines = [
        "# Test plan",
        "",
        f"Commit {_code(plan['commit'][:12])}: {changes['files']} files in {scope}, risk **{plan['risk']}**.",
        "Worked out from the changed paths by fixed rules; no model wrote it.",
        "",
        "| area | risk | files | what to test |",
        "|---|---|---|---|",
        *(
            f"| {area['area']} | {area['risk']} | {area['files']} | {area['test']} |"
            for area in plan["areas"]
        ),
    ]
    if plan["matrix"]:
        lines += ["", "Interpreters: " + ", ".join(f"Python {version}" for version in plan["matrix"])]
    if plan["tests"]:
        lines += ["", "Tests nearest to the change:", ""]
        lines += [f"- {_code(path)}" for path in plan["tests"]]
    if plan["untested"]:
        lines += ["", "Changed modules without a test of their name:", ""]
        lines += [f"- {_code(path)}" for path in plan["untested"]]
    return "\n".join(lines) + "\n"


def read_matrix(pyproject: bytes | None) -> list[str]:
    """Python versions that a project claims in its classifiers, ascending."""
    if pyproject is None:
        return []
    try:
        project = tomllib.loads(pyproject.decode("utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return []
    classifiers = project.get("classifiers") if isinstance(project, dict) else None
    found = {
        (int(match.group(1)), int(match.group(2)))
        for line in (classifiers if isinstance(classifiers, list) else [])
        if isinstance(line, str)
        and (match := re.fullmatch(r"Programming Language :: Python :: (\d{1,2})\.(\d{1,3})", line))
    }
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def _find_tests(checkout: Checkout, changed: Sequence[Change]) -> list[str]:
    """Tests that changed, and tests named after changed modules."""
    wanted = {f"test_{PurePosixPath(change.path).stem}" for change in changed}
    wanted |= {f"{PurePosixPath(change.path).stem}_test" for change in changed}
    touched = {change.path for change in changed if change.status[:1] != "D"}
    return sorted(
        file.path
        for file in checkout.files
        if _is_test(file.path) and (file.path in touched or PurePosixPath(file.path).stem in wanted)
    )[:_SHOWN]


def _find_untested(checkout: Checkout, changed: Sequence[Change]) -> list[str]:
    tests = {PurePosixPath(file.path).stem for file in checkout.files if _is_test(file.path)}
    return sorted(
        change.path
        for change in changed
        if change.path.endswith(".py") and change.status[:1] != "D" and not _is_test(change.path)
        and not PurePosixPath(change.path).name.startswith("__")
        and not {f"test_{PurePosixPath(change.path).stem}", f"{PurePosixPath(change.path).stem}_test"} & tests
    )[:_SHOWN]  # fmt: skip


def _is_test(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def _code(text: str) -> str:
    return "`" + "".join(char if char.isprintable() else "?" for char in text).replace("`", "'") + "`"
