"""Folders of the project that a step may fill: below the root, outside of its state, locked while used."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from maestro_dagster.errors import StepError
from maestro_dagster.steps.interface import StepContext
from maestro_dagster.steps.project_path import split_path

PATIENCE = 600.0  # seconds to wait for another run that fills the same folder
LOCK = ".maestro.lock"


def open_project_folder(context: StepContext, text: str) -> Path:
    """The folder, made where it is missing. Raises StepError (`file-path`, `file-guarded`, `file-link`)."""
    place = f"step {context.step}"
    root, state = context.project.root, context.project.cache.parent
    folder = root
    for part in split_path(text, place=place, state=state, root=root, write=True):
        folder /= part
        if folder.is_symlink():
            raise StepError(
                f"{text!r} leads over a symbolic link",
                place=place,
                remedy="name a real folder below the project's root",
                code="file-link",
            )
        folder.mkdir(exist_ok=True)
    return folder


@contextlib.asynccontextmanager
async def locked(folder: Path, place: str) -> AsyncIterator[None]:
    """One run at a time. The kernel lets go of the lock when its holder dies. Raises StepError (`busy`)."""
    with _open(folder) as file:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StepError.transient(
                        f"another run has been filling {folder.name} for {PATIENCE:.0f} s",
                        place=place,
                        code="busy",
                    ) from None
                await asyncio.sleep(0.05)
        yield


def _open(folder: Path) -> TextIO:
    return (folder / LOCK).open("a", encoding="ascii")
