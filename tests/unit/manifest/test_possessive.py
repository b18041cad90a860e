"""Python before 3.11.5 breaks possessive groups (gh-106052), and Debian 12 has 3.11.2: there must be none."""

from __future__ import annotations

import re
from pathlib import Path

_POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{\d+(?:,\d*)?\})\+|\(\?>")


def test_no_pattern_has_a_possessive_group(repository: Path) -> None:
    for path in (repository / "maestro_dagster").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not _POSSESSIVE_GROUP.search(line), f"{path}:{number}: {line.strip()}"


def test_the_search_finds_one() -> None:
    assert _POSSESSIVE_GROUP.search(r'_OLD = re.compile(r"(?:a|b)*+c")')
