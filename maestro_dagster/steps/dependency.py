"""What a Python project depends on, as its wheel and its lock files say it.

Read as text only. Whatever cannot be pinned to one version is kept and marked: a list that silently drops
what it does not understand would look safer than the project is.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maestro_dagster.errors import StepError

MOST_BYTES = 16 * 1024**2
LOCK_NAME = re.compile(
    r"(?:requirements|constraints)[\w.-]*\.(?:lock|txt)|requirements/[\w.-]+\.(?:lock|txt)|"
    r"pylock(?:\.[\w-]+)?\.toml|poetry\.lock|uv\.lock|pdm\.lock|Pipfile\.lock"
)
_NOT_OURS = frozenset({"editable", "virtual", "directory", "path", "workspace"})


@dataclass(frozen=True, slots=True)
class Dependency:
    """`version` None: not pinned. `hashes` are `sha256:<hex>`. `source` is the file that names it."""

    name: str  # canonical
    version: str | None
    source: str
    hashes: tuple[str, ...] = ()
    marker: str = ""
    note: str = ""  # why it is not pinned


def is_lock_file(path: str) -> bool:
    """At the top of a tree, or in its folder `requirements`; only names that mean Python packages."""
    return LOCK_NAME.fullmatch(path) is not None


def read_lock_file(path: str, data: bytes, place: str) -> list[Dependency]:
    """Raises StepError (`lock-invalid`)."""
    if len(data) > MOST_BYTES:
        raise _invalid(path, "it is too large", place)
    try:
        text = data.decode("utf-8")
        if path.startswith("pylock"):
            return list(_from_table(tomllib.loads(text), "packages", path))
        if path in {"poetry.lock", "uv.lock", "pdm.lock"}:
            return list(_from_table(tomllib.loads(text), "package", path))
        if path == "Pipfile.lock":
            return list(_from_pipfile(json.loads(text), path))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, str(error), place) from error
    return list(_from_requirements(text, path))


def read_requirement(text: str, source: str) -> Dependency:
    """One requirement (PEP 508). `==` and `===` with one full version pin it; everything else does not."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    body, *hashes = re.split(r"\s+--hash=", text)
    try:
        requirement = Requirement(body.strip())
    except InvalidRequirement:
        return Dependency(body.strip()[:200], None, source, note="not understood")
    marker = str(requirement.marker or "")
    name = canonicalize_name(requirement.name)
    found = tuple(value.strip() for value in hashes if value.startswith("sha256:"))
    if requirement.url:
        return Dependency(name, None, source, found, marker, note=f"from {requirement.url}")
    exact = [
        item for item in requirement.specifier if item.operator in {"==", "==="} and "*" not in item.version
    ]
    if len(exact) == 1:
        return Dependency(name, exact[0].version, source, found, marker)
    return Dependency(name, None, source, found, marker, note=str(requirement.specifier) or "any version")


def _from_requirements(text: str, path: str) -> Iterator[Dependency]:
    for number, raw in _logical_lines(text):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if not line or line.startswith(("--", "-i ", "-f ")):
            continue  # options name places, not packages
        if line.startswith(("-r", "-c")) and is_lock_file(line[2:].strip()):
            continue  # read by itself
        if line.startswith("-"):
            yield Dependency(f"{path}:{number}", None, path, note=line[:200])
        else:
            yield read_requirement(line, path)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, numbered by where they start."""
    open_line, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        open_line += raw.removesuffix("\\") + " "
        if not raw.endswith("\\"):
            yield start, open_line
            open_line, start = "", 0
    yield start, open_line


def _from_table(document: Mapping[str, Any], key: str, path: str) -> Iterator[Dependency]:
    """pylock.toml (PEP 751), poetry.lock, uv.lock, pdm.lock: all list packages with name and version."""
    from packaging.utils import canonicalize_name

    packages = document.get(key, [])
    for package in packages if isinstance(packages, list) else ():
        if not isinstance(package, dict) or not isinstance(package.get("name"), str):
            yield Dependency(f"{path}:{key}", None, path, note="an entry without a name")
            continue
        source = package.get("source")
        if package.get("directory") or (isinstance(source, dict) and _NOT_OURS & set(source)):
            continue  # the project itself, or its neighbour in the same tree
        version = package.get("version")
        yield Dependency(
            canonicalize_name(package["name"]),
            version if isinstance(version, str) else None,
            path,
            tuple(sorted(set(_hashes(package)))),
            str(package.get("marker", "")),
            note="" if isinstance(version, str) else "no version in the lock",
        )


def _from_pipfile(document: Any, path: str) -> Iterator[Dependency]:
    for section in ("default", "develop"):
        table = document.get(section, {}) if isinstance(document, dict) else {}
        for name, entry in table.items() if isinstance(table, dict) else ():
            version = entry.get("version", "") if isinstance(entry, dict) else ""
            yield read_requirement(f"{name}{version}", path)


def _hashes(package: Mapping[str, Any]) -> Iterator[str]:
    files = [*_list(package.get("wheels")), *_list(package.get("files"))]
    files += [package[name] for name in ("sdist", "archive") if isinstance(package.get(name), dict)]
    for file in files:
        if not isinstance(file, dict):
            continue
        if isinstance(file.get("hash"), str) and file["hash"].startswith("sha256:"):
            yield file["hash"]
        hashes = file.get("hashes")
        if isinstance(hashes, dict) and isinstance(hashes.get("sha256"), str):
            yield f"sha256:{hashes['sha256']}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _invalid(path: str, why: str, place: str) -> StepError:
    return StepError(
        f"the lock {path} cannot be read: {why}",
        place=place,
        remedy="mend it, or make it again with its tool",
        code="lock-invalid",
    )
