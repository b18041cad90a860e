"""Counting against limits: what every store of budgets does, whatever keeps its figures.

A reservation takes from every account of its path or from none, before the work; its settlement puts
the true figure in its place. Both carry an id, so a repetition after a crash counts once. What was
spent beyond a reserve is booked as it is, and whatever comes next is refused.

Amounts are 10^-9 USD. `counter_sqlite` and `counter_postgres` keep the figures on disk; nothing here
does, and the truth behind all of them is the spool: `reconcile` puts a run's figures right from it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from maestro_dagster.costs.account import (
    Account,
    Entry,
    Freeze,
    Grant,
    Page,
    Spent,
    Tally,
    add_spent,
    book_actual,
    check_room,
    complete_spent,
    frozen_error,
    hold,
    is_of_run,
    list_paths,
    tell,
    unbook,
)


class Counter(ABC):
    """Where budgets are counted. Safe between threads; the stores on disk also between processes."""

    @abstractmethod
    def _page(
        self, run_id: str, keys: Sequence[str], reservation_id: str | None, *, durable: bool = False
    ) -> AbstractContextManager[Page]:
        """A transaction: the tallies of `keys`, the entry of that id (None: all of the run, and theirs).

        `keys` are locked until the end. An error rolls everything back.
        """

    @abstractmethod
    def read(self, keys: Collection[str]) -> dict[str, Tally]:
        """The tallies of these accounts; an account that was never used stands at zero."""

    @abstractmethod
    def list_tallies(self, path: str) -> dict[str, Tally]:
        """Every account of the node `path` and below it, by key. The path is `tenant/project/...`."""

    @abstractmethod
    def freeze(self, freeze: Freeze) -> None: ...

    @abstractmethod
    def thaw(self, path: str) -> bool:
        """False when it was not frozen."""

    @abstractmethod
    def list_frozen(self) -> tuple[Freeze, ...]: ...

    @abstractmethod
    def mark_alerted(self, key: str, bits: int) -> int:
        """Remembers these actions as sent on; gives the bits that nobody had sent before."""

    @abstractmethod
    def check(self) -> str:
        """One line on what it is and how it stands. Raises CostError when it cannot be used."""

    @abstractmethod
    def close(self) -> None: ...

    def reserve(
        self,
        accounts: Sequence[Account],
        nano: int | None,
        tokens: int,
        reservation_id: str,
        *,
        run_id: str,
        owner: str = "",
        place: str = "",
    ) -> Grant:
        """Takes from every account or from none; again with the same id, takes nothing more.

        Raises CostError (`budget-exhausted`, `budget-price-unknown`, `budget-frozen`).
        """
        keys = tuple(account.key for account in accounts)
        with self._page(run_id, keys, reservation_id) as page:
            if reservation_id not in page.entries:
                if page.frozen:
                    raise frozen_error(page.frozen[0], place)
                for account in accounts:
                    check_room(account, page.tallies[account.key], nano, tokens, place)
                for key in keys:
                    page.tallies[key] = hold(page.tallies[key], nano or 0, tokens)
                page.entries[reservation_id] = Entry(
                    reservation_id, run_id, owner, keys, nano or 0, tokens, 0, open=True
                )
            return tell(accounts, page)

    def settle(
        self,
        accounts: Sequence[Account],
        reservation_id: str,
        nano: int,
        tokens: int,
        *,
        run_id: str,
        owner: str = "",
        unknown: int = 0,
    ) -> Grant:
        """Puts what it came to in the place of the reserve, once. `unknown`: events without a price.

        A reservation that the store has lost is booked at what it came to.
        """
        keys = tuple(account.key for account in accounts)
        with self._page(run_id, keys, reservation_id) as page:
            entry = page.entries.get(reservation_id)
            if entry is None:
                if page.ended:
                    return Grant()
                entry = Entry(reservation_id, run_id, owner, keys, 0, 0, 0, open=True)
            if entry.open:
                book_actual(page, entry, Spent(entry.keys, nano, tokens, unknown))
            return tell(accounts, page)

    def release(self, reservation_id: str, *, run_id: str, keys: Sequence[str]) -> None:
        """Gives an open reserve back: the work was not done."""
        with self._page(run_id, keys, reservation_id) as page:
            entry = page.entries.get(reservation_id)
            if entry is not None and entry.open:
                unbook(page, entry)

    def reconcile(
        self, run_id: str, actual: Mapping[str, Spent], *, live: Collection[str] = (), end: bool = False
    ) -> None:
        """Makes the run's figures those of `actual` (by reservation id, from the spool), again and again.

        What is not in there was never done: it is given back, unless its owner is `live` and may still do
        it. With `end` the figures become final, and a repetition changes nothing.
        """
        keys = sorted({key for spent in actual.values() for key in spent.keys})
        with self._page(run_id, keys, None, durable=end) as page:
            if page.ended:
                return
            for entry in list(page.entries.values()):
                spent = actual.get(entry.reservation_id)
                if spent is None:
                    if entry.owner not in live:
                        unbook(page, entry)
                elif entry.open and (spent.settled or entry.owner not in live):
                    book_actual(page, entry, complete_spent(spent, entry))
            for reservation_id, spent in actual.items():
                if reservation_id not in page.entries:
                    book_actual(
                        page, Entry(reservation_id, run_id, "", spent.keys, 0, 0, 0, open=True), spent
                    )
                elif end:  # what nothing limits is counted once, at the end, and costs no step anything
                    entry = page.entries[reservation_id]
                    for key in set(spent.keys).difference(entry.keys):
                        page.tallies[key] = add_spent(
                            page.tallies[key], entry.nano, entry.tokens, entry.unknown
                        )
            page.end = end


class MemoryCounter(Counter):
    """Figures of this process only, gone with it: for an engine whose project counts nowhere else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}
        self._entries: dict[str, Entry] = {}
        self._frozen: dict[str, Freeze] = {}
        self._ended: set[str] = set()

    @contextmanager
    def _page(
        self, run_id: str, keys: Sequence[str], reservation_id: str | None, *, durable: bool = False
    ) -> Iterator[Page]:
        del durable
        with self._lock:
            mine = {
                name: entry
                for name, entry in self._entries.items()
                if (name == reservation_id if reservation_id is not None else entry.run_id == run_id)
            }
            every = [*keys, *(key for entry in mine.values() for key in entry.keys)]
            page = Page(
                tallies={key: self._tallies.get(key, Tally()) for key in every},
                entries=dict(mine),
                frozen=tuple(
                    freeze for path, freeze in sorted(self._frozen.items()) if path in list_paths(keys)
                ),
                ended=run_id in self._ended,
            )
            yield page
            self._tallies.update(
                {
                    key: tally
                    for key, tally in page.tallies.items()
                    if key in self._tallies or tally != Tally()
                }
            )
            for name in mine.keys() - page.entries.keys():
                del self._entries[name]
            self._entries.update(page.entries)
            if page.end:
                self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._ended.add(run_id)
        self._entries = {name: entry for name, entry in self._entries.items() if entry.run_id != run_id}
        self._tallies = {key: tally for key, tally in self._tallies.items() if not is_of_run(key, run_id)}

    def read(self, keys: Collection[str]) -> dict[str, Tally]:
        with self._lock:
            return {key: self._tallies.get(key, Tally()) for key in keys}

    def list_tallies(self, path: str) -> dict[str, Tally]:
        with self._lock:
            return {
                key: tally for key, tally in self._tallies.items() if key.startswith((f"{path}/", f"{path}#"))
            }

    def freeze(self, freeze: Freeze) -> None:
        with self._lock:
            self._frozen[freeze.path] = freeze

    def thaw(self, path: str) -> bool:
        with self._lock:
            return self._frozen.pop(path, None) is not None

    def list_frozen(self) -> tuple[Freeze, ...]:
        with self._lock:
            return tuple(self._frozen[path] for path in sorted(self._frozen))

    def mark_alerted(self, key: str, bits: int) -> int:
        with self._lock:
            tally = self._tallies.get(key, Tally())
            self._tallies[key] = tally._replace(alerted=tally.alerted | bits)
            return bits & ~tally.alerted

    def check(self) -> str:
        return "budgets are counted in this process only"

    def close(self) -> None:
        """Nothing is open."""
