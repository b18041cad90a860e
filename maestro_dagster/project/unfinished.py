"""The mark of a restore that is at work or was stopped: until its end nobody else uses the state folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from maestro_dagster.errors import ProjectError

MARK: Final = "restoring.json"
STAGE: Final = ".restoring"  # folder of the state folder in which a restore lays out what is to be


@dataclass(frozen=True, slots=True)
class Mark:
    """`ready`: all was verified and lies in the stage. With a database `token` is committed with its tables,
    which decides whether the restore has happened. `report` is what the restore will say.
    """

    backup: str
    token: str
    ready: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)

    def write(self, home: Path) -> None:
        """Durable, and whole at any moment."""
        draft = home / STAGE / MARK
        with draft.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(home / MARK)
        sync_folder(home)

    def as_ready(self, report: Mapping[str, Any]) -> Mark:
        return replace(self, ready=True, report=report)


def read_mark(home: Path) -> Mark | None:
    """None where no restore is at work."""
    try:
        text = (home / MARK).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Mark(**json.loads(text))
    except (ValueError, TypeError):
        return Mark("unknown", "")  # damaged: it says at least that there was one


def refuse_unfinished(home: Path) -> None:
    """Raises ProjectError (`restore-unfinished`)."""
    mark = read_mark(home)
    if mark is not None:
        raise unfinished(home, mark)


def unfinished(home: Path, mark: Mark) -> ProjectError:
    return ProjectError(
        f"the restore of the backup {mark.backup} into this project has not ended",
        place=str(home / MARK),
        remedy="wait for it; if it was stopped, run the same `maestro restore` again: it goes on to the end",
        code="restore-unfinished",
    )


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
