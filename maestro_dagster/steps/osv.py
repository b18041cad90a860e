"""Whether an advisory speaks of a package version: the evaluation rules of the OSV schema.

A version is affected when it is enumerated in `versions`, or lies in one of the `ranges` that an order of
versions decides (ECOSYSTEM, SEMVER; GIT ranges do not apply to releases). Withdrawn records never apply.
Source: ossf.github.io/osv-schema, section "Evaluation".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from maestro_dagster.steps.cvss import LEVELS, name_level, score_vector

ECOSYSTEMS = {
    "pypi": "PyPI",
    "npm": "npm",
    "cargo": "crates.io",
    "golang": "Go",
    "gem": "RubyGems",
    "maven": "Maven",
    "nuget": "NuGet",
    "composer": "Packagist",
    "hex": "Hex",
    "pub": "Pub",
}
_SEMANTIC = frozenset({"npm", "crates.io", "Go", "Hex", "Pub", "SwiftURL"})
_SEMVER = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_WORDS = {"moderate": "medium", "important": "high", "negligible": "low"}

Key = tuple[Any, ...]


class UndecidedError(Exception):
    """No order of versions is known that could decide a range; the reader must fail closed."""


def is_affected(record: Mapping[str, Any], ecosystem: str, package: str, version: str) -> bool:
    """Raises UndecidedError, and ValueError for a version that its ecosystem does not know."""
    if record.get("withdrawn"):
        return False
    order = _choose_order(ecosystem)
    undecided = False
    for entry in matching_entries(record, ecosystem, package):
        if _is_enumerated(entry.get("versions") or (), ecosystem, version):
            return True
        for span in entry.get("ranges") or ():
            if span.get("type") not in {"ECOSYSTEM", "SEMVER"}:
                continue
            compare = _semantic_key if span["type"] == "SEMVER" else order
            if compare is None:
                undecided = True
            elif _lies_in(span.get("events") or (), version, compare):
                return True
    if undecided:
        raise UndecidedError(f"versions of {ecosystem} cannot be ordered")
    return False


def matching_entries(record: Mapping[str, Any], ecosystem: str, package: str) -> Iterable[Mapping[str, Any]]:
    """An ecosystem may carry a release after a colon (`Debian:12`); for packages of languages it has none."""
    wanted = normalise_name(ecosystem, package)
    for entry in record.get("affected") or ():
        found = entry.get("package") or {}
        same = normalise_name(ecosystem, found.get("name", "")) == wanted
        if same and found.get("ecosystem", "").partition(":")[0] == ecosystem:
            yield entry


def find_fix(record: Mapping[str, Any], ecosystem: str, package: str, version: str) -> str | None:
    """The lowest `fixed` version above `version`, where the record names one."""
    order = _choose_order(ecosystem)
    fixes = {
        event["fixed"]
        for entry in matching_entries(record, ecosystem, package)
        for span in entry.get("ranges") or ()
        if span.get("type") in {"ECOSYSTEM", "SEMVER"}
        for event in span.get("events") or ()
        if isinstance(event.get("fixed"), str)
    }
    if order is None:
        return min(fixes) if len(fixes) == 1 else None
    above = [fix for fix in fixes if order(fix) > order(version)]
    return min(above, key=order) if above else None


def judge_severity(record: Mapping[str, Any], ecosystem: str, package: str) -> str:
    """The highest level that the record gives; `high` where it gives none that can be read."""
    found: list[str] = []
    entries = list(matching_entries(record, ecosystem, package))
    for holder in (record, *entries):
        for item in holder.get("severity") or ():
            score = score_vector(str(item.get("score", "")))
            if score is not None:
                found.append(name_level(score))
        for key in ("database_specific", "ecosystem_specific"):
            word = str((holder.get(key) or {}).get("severity", "")).lower()
            word = _WORDS.get(word, word)
            if word in LEVELS:
                found.append(word)
    return max(found, key=LEVELS.index) if found else "high"


def normalise_name(ecosystem: str, name: str) -> str:
    if ecosystem == "PyPI":
        return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503
    return name.lower() if ecosystem in {"NuGet", "Packagist"} else name


def _choose_order(ecosystem: str) -> Callable[[str], Key] | None:
    if ecosystem == "PyPI":
        return _python_key
    return _semantic_key if ecosystem in _SEMANTIC else None


def _is_enumerated(versions: Iterable[str], ecosystem: str, version: str) -> bool:
    if ecosystem != "PyPI":
        return version in versions
    wanted = _python_key(version)
    return any(_python_key(item) == wanted for item in versions)


def _lies_in(events: Iterable[Mapping[str, str]], version: str, key: Callable[[str], Key]) -> bool:
    """Walks the events in the order of their versions; of equal ones in the order they are written."""
    wanted = key(version)
    events = list(events)
    limits = [key(event["limit"]) for event in events if event.get("limit") not in {None, "*"}]
    if limits and not any(wanted < limit for limit in limits):
        return False
    steps = [
        (key(event[kind]) if event[kind] != "0" else (), kind)
        for event in events
        for kind in ("introduced", "fixed", "last_affected")
        if kind in event
    ]
    inside = False
    for at, kind in sorted(steps, key=lambda step: step[0]):
        if kind == "introduced" and wanted >= at:
            inside = True
        elif (kind == "fixed" and wanted >= at) or (kind == "last_affected" and wanted > at):
            inside = False
    return inside


@lru_cache(maxsize=65536)
def _python_key(version: str) -> Key:
    """PEP 440. A local label (`+cu118`) is a build of the same release; what cannot be read is oldest."""
    from packaging.version import InvalidVersion, Version

    try:
        return (1, Version(Version(version).public))
    except InvalidVersion:
        return (0, version)


@lru_cache(maxsize=65536)
def _semantic_key(version: str) -> Key:
    """Semantic Versioning 2.0.0, section 11; missing parts count as zero."""
    match = _SEMVER.fullmatch(version.strip())
    if match is None:
        raise ValueError(f"{version!r} is no semantic version")
    numbers = tuple(int(part or 0) for part in match.groups()[:3])
    label = match.group(4)
    if label is None:
        return (numbers, 1, ())
    parts = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in label.split("."))
    return (numbers, 0, parts)
