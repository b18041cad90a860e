"""Events that were taken in while the inbox could not be reached: one file a delivery, until it can.

    inbox/late/<nanoseconds>-<number>.json    [<event>, ...]

Forges do not come again by themselves, and a database on another machine is now and then away. Whoever was
told that its delivery is taken in, has it on a disk: this one, or the inbox's. Taking an event into the inbox
twice changes nothing, so a crash between handing over and deleting does not either.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maestro_dagster.errors import EventError, MaestroError
from maestro_dagster.events.interface import RepositoryEvent, check_event

_PROBE_BYTES = 64 * 1024  # as much as one delivery, and as SQLite takes at once
PATIENCE = 5.0  # seconds; a database that restarts is waited for longer elsewhere
Accept = Callable[[Sequence[RepositoryEvent]], Sequence[bool]]


class LateEvents:
    """Safe between threads; one process has the folder. `accept` is the inbox's."""

    def __init__(self, folder: Path, accept: Accept, patience: float = PATIENCE) -> None:
        self._folder = folder
        self._accept = accept
        self._patience = patience
        self._lock = threading.Lock()  # of those who hand over
        self._numbers = itertools.count()

    def accept(self, events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        """As the inbox's; where that fails or takes too long the events are kept here, and count as new.

        While others wait, these wait behind them. Raises EventError: `event-malformed`, or
        `inbox-unusable` when neither could take them.
        """
        for event in events:
            check_event(event)
        if self.is_waiting():
            self._keep(events, _away("other events wait for it"))
            return (True,) * len(events)
        try:
            return self._accept_soon(events)
        except MaestroError as error:
            self._keep(events, error)
        return (True,) * len(events)

    def _accept_soon(self, events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        """A forge waits some seconds for an answer. What comes later than that does no harm."""
        found: list[Sequence[bool] | Exception] = []

        def act() -> None:
            try:
                found.append(self._accept(events))
            except Exception as error:  # noqa: BLE001 - raised again below
                found.append(error)

        thread = threading.Thread(target=act, name="inbox", daemon=True)
        thread.start()
        thread.join(self._patience)
        if not found:
            raise _away(f"it did not answer within {self._patience:g} s")
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def can_keep(self) -> bool:
        """Whether this disk would take an event now: it is tried, for no figure tells of every quota."""
        folder = self._folder if self._folder.exists() else self._folder.parent
        path = folder / f"{os.getpid()}-{threading.get_ident()}.probe"
        try:
            try:
                with path.open("wb") as file:
                    file.write(bytes(_PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def is_waiting(self) -> bool:
        return any(self._names())

    def hand_over(self) -> int:
        """What waits goes into the inbox, oldest first; how many files did. Raises what `accept` raises."""
        with self._lock:
            count = 0
            for name in self._names():
                path = self._folder / name
                events = _read(path)
                if events is not None:
                    self._accept(events)
                    count += 1
                with contextlib.suppress(OSError):  # one that stays is handed over again, in vain
                    path.unlink() if events is not None else path.rename(path.with_suffix(".bad"))
            return count

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))  # noqa: PTH208
        except OSError:
            return []

    def _keep(self, events: Sequence[RepositoryEvent], cause: MaestroError) -> None:
        """Durable when it returns."""
        name = f"{time.time_ns():020}-{next(self._numbers)}"
        data = json.dumps([event.to_json() for event in events]).encode()
        temporary, path = self._folder / f"{name}.tmp", self._folder / f"{name}.json"
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True, exist_ok=True)
                _sync_folder(self._folder.parent)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise EventError(
                f"{cause.fact}; nor can the events be kept until it can: {error.strerror or error}",
                place=str(self._folder),
                remedy=cause.remedy,
                code="inbox-unusable",
            ) from cause


def _away(fact: str) -> EventError:
    return EventError(
        f"the inbox cannot be used: {fact}", place="inbox", remedy="see that its database is there",
        code="inbox-unusable",
    )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> list[RepositoryEvent] | None:
    """None for what is none: somebody else has been here."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        events = [RepositoryEvent(**row) for row in rows]
        for event in events:
            check_event(event)
    except (ValueError, TypeError, MaestroError):
        return None
    return events
