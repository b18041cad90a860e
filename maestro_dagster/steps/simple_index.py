"""A static package index: PEP 503 (HTML) and PEP 691 (JSON), made anew from what lies in the folder.

simple/index.{html,json}             the packages
simple/<name>/index.{html,json}      the files of one, with their sha256
files/<name>/<version>/<file>        the files, their signatures, the SBOM, and release.json
"""

from __future__ import annotations

import html
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

RELEASE = "release.json"
_META = {"api-version": "1.1"}


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """`core`: pip installs it; the rest lies beside it."""

    name: str
    sha256: str  # hex
    size: int
    core: bool


@dataclass(frozen=True, slots=True)
class Release:
    name: str
    version: str
    requires_python: str
    files: tuple[IndexedFile, ...]

    def core(self) -> dict[str, str]:
        return {file.name: file.sha256 for file in self.files if file.core}


def write_release(folder: Path, release: Release) -> None:
    text = json.dumps(asdict(release), indent=1, sort_keys=True)
    (folder / RELEASE).write_text(text + "\n", encoding="utf-8")


def read_release(folder: Path) -> Release:
    """Raises OSError, ValueError, KeyError, TypeError for what `write_release` did not write."""
    document = json.loads((folder / RELEASE).read_text(encoding="utf-8"))
    files = tuple(IndexedFile(**item) for item in document.pop("files"))
    return Release(**document, files=files)


def list_releases(root: Path, name: str | None = None) -> list[Release]:
    """Complete releases only: a folder appears under its version as a whole.

    A publisher that was killed leaves its hidden folder behind, which may be as good as complete.
    """
    found = (root / "files").glob(f"{name or '*'}/*/{RELEASE}")
    return [read_release(path.parent) for path in sorted(found) if not path.parent.name.startswith(".")]


def write_index(root: Path) -> None:
    """Pages of packages first, the list of packages last; each replaced in one move."""
    by_name: dict[str, list[Release]] = {}
    for release in list_releases(root):
        by_name.setdefault(release.name, []).append(release)
    for name, releases in sorted(by_name.items()):
        folder = root / "simple" / name
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "index.json", _package_json(name, releases))
        replace_file(folder / "index.html", _package_html(name, releases))
    names = sorted(by_name)
    listing = {"meta": _META, "projects": [{"name": name} for name in names]}
    replace_file(root / "simple" / "index.json", json.dumps(listing, indent=1) + "\n")
    links = [f'<a href="{quote(name)}/">{html.escape(name)}</a><br>' for name in names]
    replace_file(root / "simple" / "index.html", _page("Packages", links))


def replace_file(path: Path, text: str) -> None:
    """Readers see the old page or the new one."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sorted(releases: Iterable[Release]) -> list[Release]:
    from packaging.version import Version

    return sorted(releases, key=lambda release: Version(release.version))


def _package_json(name: str, releases: Iterable[Release]) -> str:
    ordered = _sorted(releases)
    files = [
        {
            "filename": file.name,
            "url": _url(release, file),
            "hashes": {"sha256": file.sha256},
            "size": file.size,
            **({"requires-python": release.requires_python} if release.requires_python else {}),
        }
        for release in ordered
        for file in release.files
        if file.core
    ]
    versions = [release.version for release in ordered]
    page = {"meta": _META, "name": name, "versions": versions, "files": files}
    return json.dumps(page, indent=1) + "\n"


def _package_html(name: str, releases: Iterable[Release]) -> str:
    lines = []
    for release in _sorted(releases):
        for file in release.files:
            if not file.core:
                continue
            needs = html.escape(release.requires_python)
            attribute = f' data-requires-python="{needs}"' if needs else ""
            href = f"{_url(release, file)}#sha256={file.sha256}"
            lines.append(f'<a href="{html.escape(href)}"{attribute}>{html.escape(file.name)}</a><br>')
    return _page(f"Links for {name}", lines)


def _url(release: Release, file: IndexedFile) -> str:
    return f"../../files/{quote(release.name)}/{quote(release.version)}/{quote(file.name)}"


def _page(title: str, lines: Iterable[str]) -> str:
    head = '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.1">'
    return (
        f"{head}<title>{html.escape(title)}</title></head><body>\n" + "\n".join(lines) + "\n</body></html>\n"
    )
