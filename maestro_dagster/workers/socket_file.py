"""A Unix socket in the state folder, however long that folder's path is."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A path below the 108 bytes that the kernel allows: through the open folder (see proc(5))."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_on(path: Path) -> socket.socket:
    """A listening socket that only this user may use; a file that an earlier process left is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with _short_path(path) as short:
            server.bind(short)
    finally:
        os.umask(before)
    server.listen(64)
    server.setblocking(False)
    return server


def connect_to(path: Path, seconds: float) -> socket.socket:
    """Raises OSError when nobody listens."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(seconds)
    try:
        with _short_path(path) as short:
            client.connect(short)
    except OSError:
        client.close()
        raise
    return client
