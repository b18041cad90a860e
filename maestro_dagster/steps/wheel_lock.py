"""Hash locks: which wheels may be used, and by which hashes. Written by `uv pip compile --generate-hashes`.

A lock may come from a pushed commit, so it is read by ourselves and never given to pip as it is: options
that would send pip elsewhere (`--index-url`, `-r`, URLs, editable installs) are refused, not passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from maestro_dagster.errors import StepError

MOST_PINS = 5000
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package at one version. `wanted_by` are the names after `via`, empty where the lock has none."""

    name: str  # canonical
    version: str
    hashes: tuple[str, ...]  # "sha256:<hex>"
    marker: str = ""
    wanted_by: tuple[str, ...] = ()

    def applies(self) -> bool:
        from packaging.markers import Marker

        return not self.marker or Marker(self.marker).evaluate()

    @property
    def requirement(self) -> str:
        return " ".join((f"{self.name}=={self.version}", *(f"--hash={value}" for value in self.hashes)))


def parse_lock(text: str, place: str) -> tuple[Pin, ...]:
    """Raises StepError (`lock-invalid`), naming the line."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    pins: list[Pin] = []
    for number, line, via in _logical_lines(text):
        parts = re.split(r"\s+--hash=", line)
        try:
            requirement = Requirement(parts[0].strip())
        except InvalidRequirement as error:
            raise _invalid(f"line {number} is no pinned requirement", place) from error
        (exact, *more) = [*requirement.specifier] or [None]
        if exact is None or more or exact.operator != "==" or "*" in exact.version or requirement.url:
            raise _invalid(f"line {number} does not pin {requirement.name} to one version", place)
        hashes = tuple(part.strip() for part in parts[1:])
        if not hashes or not all(_HASH.fullmatch(value) for value in hashes):
            raise _invalid(f"line {number} has no sha256 hash for {requirement.name}", place)
        marker = str(requirement.marker or "")
        pins.append(Pin(canonicalize_name(requirement.name), exact.version, hashes, marker, via))
        if len(pins) > MOST_PINS:
            raise _invalid(f"there are more than {MOST_PINS} packages", place)
    return tuple(pins)


def _logical_lines(text: str) -> Iterable[tuple[int, str, tuple[str, ...]]]:
    """(number, line with its continuations, names after `via`): comments belong to the line before them."""
    found: list[tuple[int, str, list[str]]] = []
    open_line = False
    for number, raw in enumerate(text.splitlines(), 1):
        line, _, comment = raw.partition("#") if raw.lstrip().startswith("#") else raw.partition(" #")
        if comment and found:
            words = comment.removeprefix(" via").strip()
            found[-1][2].extend(re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", words))
        if not line.strip():
            continue
        body = line.strip().removesuffix("\\").strip()
        if open_line:
            found[-1] = (found[-1][0], f"{found[-1][1]} {body}", found[-1][2])
        else:
            found.append((number, body, []))
        open_line = line.rstrip().endswith("\\")
    return [(number, line, tuple(via)) for number, line, via in found]


def select_pins(pins: Iterable[Pin], names: Iterable[str]) -> tuple[Pin, ...]:
    """The named packages and whatever the lock says they need, for this interpreter."""
    from packaging.utils import canonicalize_name

    usable = [pin for pin in pins if pin.applies()]
    chosen: set[str] = {canonicalize_name(name) for name in names}
    while True:
        more = {pin.name for pin in usable if chosen & {canonicalize_name(name) for name in pin.wanted_by}}
        if more <= chosen:
            return tuple(pin for pin in usable if pin.name in chosen)
        chosen |= more


def read_shipped_lock(root: Path, name: str) -> tuple[Pin, ...]:
    """`resources/<name>` of the project, else the one that the engine ships."""
    for path in (root / "resources" / name, *_shipped(name)):
        if path.is_file():
            return parse_lock(path.read_text(encoding="utf-8"), f"resources/{name}")
    raise StepError(
        f"there is no lock {name}",
        place=f"resources/{name}",
        remedy="copy it from the engine's release into the project's resources",
        code="lock-missing",
    )


def _shipped(name: str) -> tuple[Path, ...]:
    """In the wheel the project folders are data of the package; in a checkout they stand beside it."""
    package = Path(str(resources.files("maestro_dagster")))
    return (package / "_project" / "resources" / name, package.parent / "resources" / name)


def _invalid(fact: str, place: str) -> StepError:
    return StepError(
        fact,
        place=place,
        remedy="make the lock with `uv pip compile --generate-hashes`: names, versions, hashes",
        code="lock-invalid",
    )
