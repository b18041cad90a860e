"""A full disk, under whatever names the libraries below report it."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from maestro_dagster.errors import MaestroError

CODE = "disk-full"
_TEXTS = ("database or disk is full", "No space left on device", "Disk quota exceeded")
_LITTLE = 256 * 1024  # bytes; SQLite's shared memory alone wants 32 KiB at a time


def find_full_disk(error: BaseException, home: Path | None = None) -> MaestroError | None:
    """The error `disk-full` when a full disk is behind `error`, however deep; else None.

    `home` is where the state lies: it is named when the error does not say which file it was, and its
    free space tells a full disk from a broken one where SQLite only says that it could not write.
    """
    for each in _chain(error):
        if isinstance(each, MaestroError) and each.error_code == CODE:
            return each
    for each in _chain(error):
        if _says_full(each, home):
            place = str(getattr(each, "filename", None) or home or "")
            return MaestroError(
                "the disk is full",
                place=place,
                remedy="free some space, then run `maestro retry` for the run that was under way; "
                "what was acknowledged is kept",
                code=CODE,
            )
    return None


def has_little_space(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _LITTLE
    except OSError:
        return False


def _says_full(error: BaseException, home: Path | None) -> bool:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    text = str(error)
    if isinstance(error, sqlite3.Error) and "disk I/O error" in text:
        return home is not None and has_little_space(home)
    # By the text as well: other libraries hand errors on as words.
    return not isinstance(error, MaestroError) and any(each in text for each in _TEXTS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        if isinstance(original := getattr(each, "orig", None), BaseException):  # SQLAlchemy's
            waiting.append(original)
