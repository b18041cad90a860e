"""Where a passphrase comes from: a file or the environment, never the command line that others can see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from maestro_dagster.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
VARIABLE = "MAESTRO_SECRET_BACKUP_PASSPHRASE"

passphrase_option: Callable[[F], F] = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File whose first line locks keys and secrets; - is the standard input.",
)


def read_passphrase(file: Path | None) -> str | None:
    """None when none was given. Raises UsageError."""
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            line = str(stream.readline(4096)).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(
            f"the passphrase cannot be read: {why}", place=str(file), remedy="give a readable file"
        ) from error
    if not line:
        raise UsageError(
            "the passphrase is empty", place=str(file), remedy="write it into the first line of the file"
        )
    return line
