"""The lease that makes somebody the sole writer of a day.

On this machine it is a file lock, which ends with its process. On an object store it is a numbered
object, made by a write that fails when the object exists:

    .../day=2026-01-31/lease/00000007.json    {"owner", "until"}

The highest number holds the day until `until` (Unix seconds); the next writer makes the number after it.
A holder that was thought dead finds a higher number when it wakes, and publishes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from maestro_dagster.costs.folder import RemoteFolder
from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError

SECONDS = 60.0  # without a sign of life, then another writer may take over
WAIT = 900.0  # how long a writer waits for the day; a day of 50 M rows takes less
_POLL = 0.2


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """One writer at a time on this machine; others wait. Raises CostError (`spool-write`, `disk-full`)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise write_error(error, folder) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Lease:
    """A lease on an object store. Renews itself from a thread until it is released."""

    def __init__(self, folder: RemoteFolder, *, seconds: float = SECONDS, wait: float = WAIT) -> None:
        self._folder = folder.child("lease")
        self._seconds = seconds
        self._wait = wait
        self._owner = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Waits for the day. Raises CostError (`day-locked`)."""
        deadline = time.monotonic() + self._wait
        while not self._try():
            if time.monotonic() >= deadline:
                raise CostError(
                    "another writer holds this day of the lake",
                    place=self._folder.place(""),
                    remedy="wait until it is done; a writer that died loses the day within a minute",
                    code="day-locked",
                )
            time.sleep(_POLL)
        self._thread = threading.Thread(target=self._renew, name="lake-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises CostError (`lease-lost`) when another writer may have the day by now."""
        number, owner, until = self._highest()
        if (number, owner) != (self._number, self._owner) or until <= time.time():
            raise CostError(
                "this writer has lost the day to another one and published nothing",
                place=self._folder.place(""),
                remedy="compact the day again",
                code="lease-lost",
            )

    def release(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        number, owner, _ = self._highest()
        if (number, owner) == (self._number, self._owner):
            self._folder.put(_name(self._number), self._content(0.0))

    def _try(self) -> bool:
        number, _, until = self._highest()
        if until > time.time():
            return False
        mine = number + 1
        if not self._folder.create(_name(mine), self._content(time.time() + self._seconds)):
            return False
        # Somebody may have taken and given back this very number while it was looked at: the highest
        # object is never removed, so being the highest is proof.
        if self._highest()[:2] != (mine, self._owner):
            return False
        self._number = mine
        for name in self._folder.names():
            if name < _name(mine):
                self._folder.remove(name)
        return True

    def _highest(self) -> tuple[int, str, float]:
        """(number, owner, until); (0, "", 0) where nobody ever held the day."""
        names = self._folder.names()
        if not names:
            return 0, "", 0.0
        number = int(names[-1].removesuffix(".json"))
        try:
            value = json.loads(self._folder.read(names[-1]))
            return number, str(value["owner"]), float(value["until"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Removed meanwhile, or damaged: an unreadable lease is nobody's, its number stays used.
            return number, "", 0.0

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            with contextlib.suppress(CostError):  # `check` will find out
                number, owner, until = self._highest()
                if (number, owner) != (self._number, self._owner) or until <= time.time():
                    return
                self._folder.put(_name(self._number), self._content(time.time() + self._seconds))

    def _content(self, until: float) -> bytes:
        return json.dumps({"owner": self._owner, "until": until}).encode()


def _name(number: int) -> str:
    return f"{number:08d}.json"
