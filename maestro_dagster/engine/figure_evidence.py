"""Which receipts were made and are gone by now.

A store is asked once in a while for all that it has, beside the request for the figures: an object store
takes its time, and one request for each run would cost more than the answer is worth.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maestro_dagster.errors import MaestroError

RECENT: Final = 500  # newest receipts on this machine, whose files are looked for each time
MOST: Final = 100_000  # newest receipts that are looked for in the list
_EVERY: Final = 300.0  # seconds between two lists, or ten times what the last one took
_PATIENCE: Final = 2.0  # seconds that figures wait for a list; else the one before counts


@dataclass(frozen=True, slots=True)
class Listing:
    """`runs` gives all runs of which the store has evidence; `place` is how the URLs of its bundles begin."""

    place: str
    runs: Callable[[], Iterable[str]]


class LostReceipts:
    def __init__(self, listing: Listing | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._listing = listing
        self._clock = clock
        self._sealed: deque[tuple[str, str]] = deque(maxlen=MOST)
        self._lost: set[str] = set()  # as of the last list
        self._next = 0.0
        self._asking: threading.Thread | None = None

    def add(self, run_id: str, place: str) -> None:
        """A run that has its receipt, newer than those before."""
        self._sealed.append((run_id, place))

    def count(self) -> int:
        if self._listing is not None:
            self._ask(self._listing)
        recent = (self._sealed[-number] for number in range(1, min(RECENT, len(self._sealed)) + 1))
        gone = {run_id for run_id, place in recent if "://" not in place and not Path(place).exists()}
        back = {run_id for run_id, place in self._sealed if run_id in self._lost and _is_file(place)}
        return len(gone | (self._lost - back))

    def _ask(self, listing: Listing) -> None:
        if (self._asking is None or not self._asking.is_alive()) and self._clock() >= self._next:
            # Evidence is stored before the journal knows it: what is known by now has to be in the list.
            known = tuple(self._sealed)
            self._asking = threading.Thread(
                target=self._look, args=(listing, known), name="maestro-receipts", daemon=True
            )
            self._asking.start()
        if self._asking is not None:
            self._asking.join(_PATIENCE)

    def _look(self, listing: Listing, known: tuple[tuple[str, str], ...]) -> None:
        begun = self._clock()
        try:
            there = set(listing.runs())
        except (MaestroError, OSError):
            pass  # not reached: that says nothing of what it has, and others tell of it
        else:
            self._lost = {
                run_id
                for run_id, place in known
                if run_id not in there
                # Of a place that was named before, an object cannot be looked for, a file can.
                and (place.startswith(listing.place) if "://" in place else not Path(place).exists())
            }
        now = self._clock()
        self._next = now + max(_EVERY, 10 * (now - begun))


def _is_file(place: str) -> bool:
    return "://" not in place and Path(place).exists()
