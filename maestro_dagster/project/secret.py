"""Where a project's secrets come from: the environment, or a file of the state folder that nobody else reads.

`MAESTRO_SECRET_<NAME>` (upper case, everything but letters and digits as `_`) wins over `secrets/<name>`
in the home. Values are never written down, logged, or put into an error.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from maestro_dagster.errors import ProjectError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def secret_source(home: Path, environment: Mapping[str, str] | None = None) -> Callable[[str], str | None]:
    """A function that gives the secret of a name, or None. It raises ProjectError (`secret-open`)."""
    found = os.environ if environment is None else environment

    def find(name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return None
        if value := found.get(secret_variable(name), "").strip():
            return value
        return _read(home / "secrets" / name)

    return find


def list_secrets(home: Path) -> Iterator[str]:
    """The secrets in the state folder, of whatever name. One that cannot be used is left out."""
    try:
        paths = sorted((home / "secrets").iterdir())
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(ProjectError):
            if value := _read(path):
                yield value


def secret_variable(name: str) -> str:
    return "MAESTRO_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(64 * 1024)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProjectError(
            f"a secret cannot be read: {error.strerror}", place=str(path), remedy="repair the file",
            code="secret-open",
        ) from error  # fmt: skip
    if mode & 0o077:
        raise ProjectError(
            "a secret may be read by others",
            place=str(path),
            remedy=f"chmod 600 {path}",
            code="secret-open",
        )
    try:
        return data.decode("utf-8").strip() or None
    except UnicodeDecodeError:
        raise ProjectError(
            "a secret is no UTF-8 text", place=str(path), remedy="write it as text, in base64 for example",
            code="secret-open",
        ) from None  # fmt: skip
