"""The arithmetic of budgets: accounts, what stands against them, and what one booking changes.

Amounts are 10^-9 USD. Nothing here keeps anything; see `counter`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from maestro_dagster.costs.period import spell_day
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
    renews: str = ""  # YYYY-MM-DD, at midnight UTC; empty: never, it is for one run
    soft_nano: int | None = None
    hard_nano: int | None = None
    tokens: int | None = None
    actions: tuple[tuple[str, int], ...] = (("warn", 80), ("freeze", 100))

    @property
    def path(self) -> str:
        return self.key.partition("#")[0]


class Tally(NamedTuple):  # made many times a booking, for which a frozen dataclass is too slow
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
    """What one reservation came to, and all accounts that it belongs to, limited or not.

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
    renews = "it does not renew"
    if account.renews:
        renews = f"it renews on {spell_day(account.renews)}, 00:00 UTC"
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


def hold(tally: Tally, nano: int, tokens: int) -> Tally:
    spent, reserved, spent_tokens, reserved_tokens, *rest = tally
    return Tally(spent, reserved + nano, spent_tokens, reserved_tokens + tokens, *rest)


def add_spent(tally: Tally, nano: int, tokens: int, unknown: int) -> Tally:
    spent, reserved, spent_tokens, reserved_tokens, unpriced, *rest = tally
    return Tally(spent + nano, reserved, spent_tokens + tokens, reserved_tokens, unpriced + unknown, *rest)


def complete_spent(spent: Spent, entry: Entry) -> Spent:
    """What the spool does not know of a call stands at its reserve: its tokens, or its cost."""
    tokens = spent.tokens if spent.settled else max(spent.tokens, entry.tokens)
    nano = max(spent.nano, entry.nano) if spent.unknown else spent.nano
    return replace(spent, keys=entry.keys, nano=nano, tokens=tokens)


def book_actual(page: Page, entry: Entry, spent: Spent) -> None:
    """Takes the reserve of an open entry back and books what it came to."""
    for key in entry.keys:
        held = hold(page.tallies[key], -entry.nano, -entry.tokens)
        page.tallies[key] = add_spent(held, spent.nano, spent.tokens, spent.unknown)
    page.entries[entry.reservation_id] = replace(
        entry, nano=spent.nano, tokens=spent.tokens, unknown=spent.unknown, open=False
    )


def unbook(page: Page, entry: Entry) -> None:
    for key in entry.keys:
        tally = page.tallies[key]
        if entry.open:
            page.tallies[key] = hold(tally, -entry.nano, -entry.tokens)
        else:
            page.tallies[key] = add_spent(tally, -entry.nano, -entry.tokens, -entry.unknown)
    del page.entries[entry.reservation_id]


def tell(accounts: Sequence[Account], page: Page) -> Grant:
    """What is in force, and what was never told before: of each account the soft and the highest other."""
    actions: set[str] = set()
    acts = []
    for account in accounts:
        tally = page.tallies[account.key]
        found = reached(account, tally)
        if not found:
            continue
        actions.update(found)
        if new := [action for action in found if not tally.told & _BIT[action]]:
            page.tallies[account.key] = tally._replace(told=tally.told | action_bits(new))
            hard = [action for action in new if action != "soft"]
            told = [*(["soft"] if "soft" in new else []), *hard[-1:]]
            acts += [Act(action, account, tally.spent_nano, tally.spent_tokens) for action in told]
    return Grant(frozenset(actions), tuple(acts))
