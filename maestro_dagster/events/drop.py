"""A push as a hook writes it down: one small JSON file, read with care, since a stranger may have made it."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

from maestro_dagster.errors import EventError
from maestro_dagster.events.interface import RepositoryEvent, check_event

_NEVER_READABLE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM})
_MAX_DROP = 64 * 1024


def read_drop(path: Path) -> tuple[RepositoryEvent, int]:
    """One drop and its place within its push; it was received when the file was last written.

    Raises EventError `drop-malformed` for what will never be one, OSError for what may be later.
    """
    data, received_at = _read_regular(path)
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is no JSON: {error}", path) from error
    keys = ("event_id", "repository", "before", "after", "ref")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in keys):
        raise _malformed(f"it lacks one of {', '.join(keys)}", path)
    order, name = found.get("order", 0), found.get("name")
    event = RepositoryEvent(
        **{key: found[key] for key in keys},
        received_at=received_at,
        name=name if isinstance(name, str) else "",
    )
    try:
        check_event(event)
    except EventError as error:
        raise _malformed(error.fact.removeprefix("the event is malformed: "), path) from error
    return event, order if isinstance(order, int) else 0


def _read_regular(path: Path) -> tuple[bytes, float]:
    """Content and time of a regular file. Never follows a link, and never waits for a pipe's other end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NEVER_READABLE:
            raise
        raise _malformed(f"it cannot be opened as a file: {error.strerror}", path) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _malformed("it is no regular file", path)
        if status.st_size > _MAX_DROP:
            raise _malformed(f"it is larger than {_MAX_DROP} bytes", path)
        data = os.read(handle, _MAX_DROP + 1)
    finally:
        os.close(handle)
    return data, status.st_mtime


def _malformed(fact: str, path: Path) -> EventError:
    return EventError(
        f"the drop is malformed: {fact}",
        place=str(path),
        remedy="push again, or start a run by hand; `maestro hook install` renews the hook",
        code="drop-malformed",
    )
