"""Runs in the cage, by itself: asks a PEP 517 back end for an sdist and a wheel.

    python build_inside.py BACKEND SOURCE OUT WORK [BACKEND_PATH...]

Standard library only. The wheel is built from the sdist, as other people will. The sdist's archive is made
anew where the back end wrote times or owners into it. Exit code 3: the back end wants packages that are
not there; their names are on standard error.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import re
import sys
import tarfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

UNMET = 3


def load_backend(name: str, source: Path, paths: list[str]) -> Any:
    """PEP 517: `module:object`, from `backend-path` first where the project carries its own back end."""
    sys.path[:0] = [str(source / path) for path in paths]
    module, _, attributes = name.partition(":")
    backend: Any = importlib.import_module(module)
    for part in attributes.split(".") if attributes else ():
        backend = getattr(backend, part)
    return backend


def require(backend: Any, hook: str) -> None:
    """Packages that the back end asks for on top of the declared ones."""
    ask: Callable[[], list[str]] | None = getattr(backend, hook, None)
    unmet = []
    for requirement in ask() if ask else ():
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        try:
            metadata.version(match.group() if match else requirement)
        except metadata.PackageNotFoundError:
            unmet.append(requirement)
    if unmet:
        sys.stderr.write("\n".join(unmet) + "\n")
        raise SystemExit(UNMET)


def set_times(folder: Path, epoch: int) -> None:
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.utime(Path(top, name), (epoch, epoch), follow_symlinks=False)


def normalise(sdist: Path, epoch: int) -> None:
    """Times, owners and order out of the archive, where the back end left them in."""
    data = sdist.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        clean = all(
            member.mtime == epoch and not (member.uid or member.gid or member.uname) for member in members
        )
        if clean and int.from_bytes(data[4:8], "little") in {0, epoch}:
            return
        target = io.BytesIO()
        with (
            gzip.GzipFile("", "wb", 9, target, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as fresh,
        ):
            for member in sorted(members, key=lambda member: member.name):
                member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                fresh.addfile(member, archive.extractfile(member) if member.isreg() else None)
    sdist.write_bytes(target.getvalue())


def main() -> None:
    name, source, out, work, *paths = sys.argv[1:]
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    set_times(Path(source), epoch)
    os.chdir(source)
    backend = load_backend(name, Path(source), paths)
    require(backend, "get_requires_for_build_sdist")
    sdist = Path(out, backend.build_sdist(out, {}))
    normalise(sdist, epoch)
    with tarfile.open(sdist) as archive:
        top = os.path.commonpath([member.name for member in archive.getmembers()])
        archive.extractall(Path(work, "sdist"), filter="data")
    os.chdir(Path(work, "sdist", top))
    require(backend, "get_requires_for_build_wheel")
    backend.build_wheel(out, {}, None)


if __name__ == "__main__":
    main()
