"""One loop a project: a lock that dies with its process, and the files that say where it is."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from maestro_dagster.errors import ProjectError

RUN_FOLDER = "run"


def socket_path(home: Path) -> Path:
    """Where the loop of a project listens."""
    return home / RUN_FOLDER / "loop.sock"


def _lock(handle: int) -> None:
    """Tries for a moment: somebody may just be asking whether a loop runs."""
    for _ in range(4):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_loop_running(home: Path) -> bool:
    """Whether a process holds the project's loop."""
    try:
        lock = os.open(home / RUN_FOLDER / "loop.lock", os.O_RDONLY | os.O_CLOEXEC)  # a disk may be read-only
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def is_loop_ready(home: Path) -> bool:
    """Whether a process holds the project's loop, and the loop takes work."""
    return (home / RUN_FOLDER / "ready").exists() and is_loop_running(home)


class LoopGuard:
    """Holds `run/loop.lock`; `run/loop.json` says pid and start, `run/ready` that the loop takes work.

    Raises ProjectError on entry: `loop-running` when another process holds the project, `home-unwritable`.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / RUN_FOLDER
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            return self._enter()
        except OSError as error:  # a full disk is found behind it
            raise ProjectError(
                f"the state folder cannot be written: {error.strerror or error}",
                place=str(error.filename or self.folder),
                remedy="give this user the right to write there, mount it for writing, or set MAESTRO_HOME",
                code="home-unwritable",
            ) from error

    def _enter(self) -> Self:
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.folder / "loop.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
        except OSError as error:
            os.close(lock)
            raise ProjectError(
                f"`maestro dev` already runs in this project (pid {self._pid()})",
                place=str(self.folder / "loop.json"),
                remedy="use that one, or stop it first",
                code="loop-running",
            ) from error
        self._lock = lock
        self.clear()
        form = {"pid": os.getpid(), "started_at": time.time()}
        (self.folder / "loop.json").write_text(json.dumps(form), encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        (self.folder / "loop.json").unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def descriptors(self) -> tuple[int, ...]:
        """What a forked child has to close, or the lock outlives this process."""
        return () if self._lock is None else (self._lock,)

    def set_ready(self) -> None:
        (self.folder / "ready").write_text(str(os.getpid()), encoding="utf-8")

    def clear(self) -> None:
        (self.folder / "ready").unlink(missing_ok=True)

    def _pid(self) -> object:
        try:
            return json.loads((self.folder / "loop.json").read_text(encoding="utf-8"))["pid"]
        except (OSError, ValueError, KeyError):
            return "unknown"
