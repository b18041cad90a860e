"""Counting against limits: the arithmetic of budgets, whatever keeps the figures.

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
from dataclasses import dataclass, field, replace

from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

# In the order in which they are taken; `soft` is reached at the soft limit, the others at a share of the
# hard one. The position is the bit under which an account remembers that it was told.
ACTIONS = ("soft", "warn", "downgrade", "slow", "freeze")
_BIT = {action: 1 << index for index, action in enumerate(ACTIONS)}


@dataclass(frozen=True, slots=True)
class Account:
    """One budget in one period. `key` names it in the store, `name` in words, `renews` the day it does.

    A limit of None does not limit: what is spent is counted all the same. `actions` are (action, percent
    of the hard limit), ascending.
    """

    key: str
    name: str
    renews: str = ""  # in words; empty: never, it is for one run
    soft_nano: int | None = None
    hard_nano: int | None = None
    tokens: int | None = None
    actions: tuple[tuple[str, int], ...] = (("warn", 80), ("freeze", 100))

    @property
    def path(self) -> str:
        return self.key.partition("#")[0]


@dataclass(frozen=True, slots=True)
class Tally:
    """What stands against an account. `unknown`: events without a price, whose cost is in no sum."""

    spent_nano: int = 0
    reserved_nano: int = 0
    spent_tokens: int = 0
    reserved_tokens: int = 0
    unknown: int = 0
    told: int = 0  # bits of the actions that were told
    alerted: int = 0  # bits of the actions that the sensor has sent on

    @property
    def used_nano(self) -> int:
        return self.spent_nano + self.reserved_nano

    @property
    def used_tokens(self) -> int:
        return self.spent_tokens + self.reserved_tokens


@dataclass(frozen=True, slots=True)
class Spent:
    """What one reservation came to, and the accounts that it belongs to.

    `unknown` counts its events without a price, which are in no sum. `settled` is False for an intent
    whose answer nobody knows: it stands at its reserve.
    """

    keys: tuple[str, ...]
    nano: int
    tokens: int = 0
    unknown: int = 0
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A reservation in the books: what it holds while open, what it came to afterwards."""

    reservation_id: str
    run_id: str
    owner: str  # who reserved: tells whether a reservation without a settlement may still get one
    keys: tuple[str, ...]
    nano: int
    tokens: int
    unknown: int
    open: bool


@dataclass(frozen=True, slots=True)
class Act:
    """A threshold that was reached just now. `percent` is of the hard limit; 0 for a soft one."""

    action: str
    account: Account
    spent_nano: int
    spent_tokens: int

    def to_text(self) -> str:
        limit = self.account.soft_nano if self.action == "soft" else self.account.hard_nano
        parts = []
        if limit is not None:
            parts.append(f"{format_nano(self.spent_nano)} of {format_nano(limit)} USD are spent")
        if self.account.tokens is not None and self.action != "soft":
            parts.append(f"{self.spent_tokens} of {self.account.tokens} tokens are used")
        return f"budget {self.account.name}: {self.action} ({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation that was made. `actions` are in force on its path; `acts` have just come into force."""

    actions: frozenset[str] = frozenset()
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Freeze:
    """A node that somebody has stopped. `at` is RFC 3339 UTC."""

    path: str
    reason: str
    by: str
    at: str


@dataclass(slots=True)
class Page:
    """What one booking sees and changes; the store writes it back whole, or not at all."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    frozen: tuple[Freeze, ...] = ()
    ended: bool = False  # the run's figures are final
    end: bool = False  # set: forget the run's entries and its own accounts, and keep that it ended


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
                    page.tallies[key] = _hold(page.tallies[key], nano or 0, tokens)
                page.entries[reservation_id] = Entry(
                    reservation_id, run_id, owner, keys, nano or 0, tokens, 0, open=True
                )
            acts = _tell(accounts, page)
            return Grant(actions_in_force(accounts, page.tallies), acts)

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
                _book(page, entry, Spent(entry.keys, nano, tokens, unknown))
            return Grant(actions_in_force(accounts, page.tallies), _tell(accounts, page))

    def release(self, reservation_id: str, *, run_id: str, keys: Sequence[str]) -> None:
        """Gives an open reserve back: the work was not done."""
        with self._page(run_id, keys, reservation_id) as page:
            entry = page.entries.get(reservation_id)
            if entry is not None and entry.open:
                _unbook(page, entry)

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
                        _unbook(page, entry)
                elif entry.open and (spent.settled or entry.owner not in live):
                    _book(page, entry, _complete(spent, entry))
            for reservation_id, spent in actual.items():
                if reservation_id not in page.entries:
                    _book(page, Entry(reservation_id, run_id, "", spent.keys, 0, 0, 0, open=True), spent)
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
            self._tallies.update(page.tallies)
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
            self._tallies[key] = replace(tally, alerted=tally.alerted | bits)
            return bits & ~tally.alerted

    def check(self) -> str:
        return "budgets are counted in this process only"

    def close(self) -> None:
        """Nothing is open."""


# The arithmetic


def check_room(account: Account, tally: Tally, nano: int | None, tokens: int, place: str) -> None:
    """Raises CostError when the account has not enough left; what asks for nothing always fits."""
    hard = account.hard_nano
    if hard is not None:
        if nano is None:
            raise CostError(
                f"the budget of {format_nano(hard)} USD ({account.name}) cannot be kept: "
                "the price of this work is unknown",
                place=place,
                remedy="add the price to resources/models.yaml or rates.yaml, or remove the budget",
                code="budget-price-unknown",
            )
        if nano and nano > hard - tally.used_nano:
            left = f"{format_nano(max(0, hard - tally.used_nano))} USD"
            raise exhausted_error(
                account, f"{format_nano(hard)} USD", left, f"this reserves {format_nano(nano)} USD", place
            )
    if account.tokens is not None and tokens and tokens > account.tokens - tally.used_tokens:
        left = f"{max(0, account.tokens - tally.used_tokens)} tokens"
        raise exhausted_error(
            account, f"{account.tokens} tokens", left, f"this reserves {tokens} tokens", place
        )


def exhausted_error(account: Account, limit: str, left: str, asked: str, place: str) -> CostError:
    """Names the budget, its limit, what is left, and when it renews."""
    renews = f"it renews on {account.renews}" if account.renews else "it does not renew"
    return CostError(
        f"the budget {account.name} is used up: of {limit} there is {left} left, {asked}; {renews}",
        place=place,
        remedy="raise the budget"
        + (" in resources/budgets.yaml, wait until it renews" if account.renews else "")
        + ", lower max_tokens, or choose a cheaper model",
        code="budget-exhausted",
    )


def frozen_error(freeze: Freeze, place: str) -> CostError:
    return CostError(
        f"the budget {freeze.path} is frozen since {freeze.at} by {freeze.by}: {freeze.reason}",
        place=place,
        remedy=f"`maestro cost budget thaw {freeze.path}` lets it go on",
        code="budget-frozen",
    )


def reached(account: Account, tally: Tally) -> tuple[str, ...]:
    """The actions whose threshold what was spent has reached, in order. Reserves do not count here."""
    found = []
    if account.soft_nano is not None and tally.spent_nano >= account.soft_nano:
        found.append("soft")
    for action, percent in account.actions:
        money = account.hard_nano is not None and tally.spent_nano * 100 >= account.hard_nano * percent
        tokens = account.tokens is not None and tally.spent_tokens * 100 >= account.tokens * percent
        if money or tokens:
            found.append(action)
    return tuple(found)


def actions_in_force(accounts: Sequence[Account], tallies: Mapping[str, Tally]) -> frozenset[str]:
    return frozenset(action for account in accounts for action in reached(account, tallies[account.key]))


def action_bits(actions: Collection[str]) -> int:
    return sum(_BIT[action] for action in set(actions))


def list_paths(keys: Sequence[str]) -> frozenset[str]:
    """The nodes that accounts belong to, with all above them: `a/b#day:...` is of `a/b` and of `a`."""
    paths = set()
    for key in keys:
        path = key.partition("#")[0]
        while path and path not in paths:
            paths.add(path)
            path = path.rpartition("/")[0]
    return frozenset(paths)


def is_of_run(key: str, run_id: str) -> bool:
    """Whether an account is that of a run or of one of its steps: `tenant/project/flow/run[/step]#run`."""
    path, _, period = key.partition("#")
    return period == "run" and path.split("/")[3:4] == [run_id]


def _hold(tally: Tally, nano: int, tokens: int) -> Tally:
    return replace(
        tally, reserved_nano=tally.reserved_nano + nano, reserved_tokens=tally.reserved_tokens + tokens
    )


def _complete(spent: Spent, entry: Entry) -> Spent:
    """What the spool does not know of a call stands at its reserve: its tokens, or its cost."""
    tokens = spent.tokens if spent.settled else max(spent.tokens, entry.tokens)
    nano = max(spent.nano, entry.nano) if spent.unknown else spent.nano
    return replace(spent, keys=entry.keys, nano=nano, tokens=tokens)


def _book(page: Page, entry: Entry, spent: Spent) -> None:
    """Takes the reserve of an open entry back and books what it came to."""
    for key in entry.keys:
        held = _hold(page.tallies[key], -entry.nano, -entry.tokens)
        page.tallies[key] = replace(
            held,
            spent_nano=held.spent_nano + spent.nano,
            spent_tokens=held.spent_tokens + spent.tokens,
            unknown=held.unknown + spent.unknown,
        )
    page.entries[entry.reservation_id] = replace(
        entry, nano=spent.nano, tokens=spent.tokens, unknown=spent.unknown, open=False
    )


def _unbook(page: Page, entry: Entry) -> None:
    for key in entry.keys:
        tally = page.tallies[key]
        if entry.open:
            page.tallies[key] = _hold(tally, -entry.nano, -entry.tokens)
        else:
            page.tallies[key] = replace(
                tally,
                spent_nano=tally.spent_nano - entry.nano,
                spent_tokens=tally.spent_tokens - entry.tokens,
                unknown=tally.unknown - entry.unknown,
            )
    del page.entries[entry.reservation_id]


def _tell(accounts: Sequence[Account], page: Page) -> tuple[Act, ...]:
    """The thresholds that were never told before: of each account the soft one and the highest other."""
    acts = []
    for account in accounts:
        tally = page.tallies[account.key]
        new = [action for action in reached(account, tally) if not tally.told & _BIT[action]]
        if new:
            page.tallies[account.key] = replace(tally, told=tally.told | action_bits(new))
            hard = [action for action in new if action != "soft"]
            told = [*(["soft"] if "soft" in new else []), *hard[-1:]]
            acts += [Act(action, account, tally.spent_nano, tally.spent_tokens) for action in told]
    return tuple(acts)
