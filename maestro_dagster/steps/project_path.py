"""Open files below the project's root without ever following a link out of it.

Every component of a path is opened by itself, relative to the folder before it and without following
links (`openat` with `O_NOFOLLOW`), so that a link put there between a check and its use gains nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from maestro_dagster.errors import StepError

_STATE = frozenset({".maestro", ".git"})
# What decides how later runs behave: no step may change it.
_GUARDED = frozenset({"assets", "policies", "recipes", "resources", "sensors", "pyproject.toml"})
_MAX_LENGTH = 1024


def split_path(text: str, *, place: str, state: Path, root: Path, write: bool) -> tuple[str, ...]:
    """The components of a relative path that a step may open. Raises StepError (`file-path`, `file-guarded`).

    `state` is the folder of the project's state, wherever the settings put it.
    """
    if not text or len(text) > _MAX_LENGTH or "\0" in text or "\\" in text or text.startswith("/"):
        raise _refused("is no relative path below the project", text, place, "file-path")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if not parts or ".." in parts:
        raise _refused("leaves the project's root", text, place, "file-path")
    folded = tuple(part.casefold() for part in parts)
    if _STATE & set(folded) or (root / Path(*parts)).is_relative_to(state):
        raise _refused("belongs to the state of the project", text, place, "file-guarded")
    if write and (folded[0] in _GUARDED or any(part.startswith(".") for part in folded)):
        raise _refused("decides how flows run, so no step may write it", text, place, "file-guarded")
    return parts


def read_file(root: Path, parts: tuple[str, ...], *, place: str, limit: int) -> bytes:
    """A regular file of at most `limit` bytes. Raises StepError (`file-*`)."""
    shown = "/".join(parts)
    with _folder(root, parts[:-1], place) as folder, _coded(shown, place):
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _refused("is no regular file", shown, place, "file-kind")
            if status.st_size > limit:
                raise _refused(
                    f"has {status.st_size} bytes, more than {limit}", shown, place, "file-too-large"
                )
            data = stream.read(limit + 1)
    if len(data) > limit:
        raise _refused(f"has more than {limit} bytes", shown, place, "file-too-large")
    return data


def write_file(root: Path, parts: tuple[str, ...], data: bytes, *, place: str, overwrite: bool) -> None:
    """Writes atomically and durably: readers see the old file or the new one, never a half.

    Raises StepError (`file-*`).
    """
    shown, name = "/".join(parts), parts[-1]
    temporary = f".{name[:100]}.{secrets.token_hex(8)}.part"
    with _folder(root, parts[:-1], place, make=True) as folder, _coded(shown, place):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _refused("is a folder", shown, place, "file-kind")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o644, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(handle)
            if overwrite:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                # A link, unlike a rename, fails when the name is taken.
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)


@contextlib.contextmanager
def _folder(root: Path, parts: tuple[str, ...], place: str, *, make: bool = False) -> Iterator[int]:
    """The open folder `parts` below `root`; made where it is missing and `make` is set."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with _coded(str(root), place):
        folder = os.open(root, flags)
    try:
        for index, part in enumerate(parts):
            with _coded("/".join(parts[: index + 1]), place):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=folder)
                below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


_FACTS = {
    errno.ENOENT: ("does not exist", "file-missing"),
    errno.ELOOP: ("is a symbolic link", "file-link"),
    errno.ENOTDIR: ("is no folder, or a symbolic link", "file-link"),
    errno.EISDIR: ("is a folder", "file-kind"),
    errno.ENXIO: ("is no regular file", "file-kind"),
    errno.EEXIST: ("exists already, and overwrite is false", "file-exists"),
    errno.EACCES: ("may not be opened by this user", "file-access"),
    errno.EPERM: ("may not be opened by this user", "file-access"),
    errno.ENOSPC: ("does not fit: the disk is full", "disk-full"),
    errno.EDQUOT: ("does not fit: the quota is used up", "disk-full"),
    errno.ENAMETOOLONG: ("has too long a name", "file-path"),
}


_ELSEWHERE = "give the path of a file below the project's root, outside of its state and settings"
_REMEDIES = {
    "file-too-large": "make the file smaller, or raise `max_bytes` where the step has it",
    "file-missing": "check the path, and that something makes the file before it is read",
    "file-link": "give the path of the file itself, without symbolic links",
    "file-exists": "set `overwrite: true`, or give another path",
    "file-access": "let this user read the file, or write to its folder",
    "disk-full": "free some space, then run `maestro retry`",
}


@contextlib.contextmanager
def _coded(shown: str, place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fact, code = _FACTS.get(error.errno or 0, (f"cannot be opened: {error.strerror}", "file-access"))
        raise _refused(fact, shown, place, code) from error


def _refused(fact: str, path: str, place: str, code: str) -> StepError:
    return StepError(f"{path!r} {fact}", place=place, remedy=_REMEDIES.get(code, _ELSEWHERE), code=code)
