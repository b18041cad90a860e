"""The tree of budgets: tenant > project > flow > run > step. Work has to fit into every one above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from maestro_dagster.costs.account import (
    Account,
    Act,
    Freeze,
    Grant,
    Spent,
    exhausted_error,
    frozen_error,
    reached,
)
from maestro_dagster.costs.counter import Counter, MemoryCounter
from maestro_dagster.costs.event import format_time
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.period import Period, periods_of
from maestro_dagster.costs.tier import BudgetBook, Chapter, Limit, Thrift
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

SCOPES = ("tenant", "project", "flow")
_RUN = "run"
_BEFORE = Chapter("0001-01-01", tenants={})  # the first date of a file: the usual actions, no limits


@dataclass(frozen=True, slots=True)
class RunBudget:
    """What one run may use. `own` are limits of the flow and of the request, `steps` those of its steps.

    Made by `BudgetTree.open_run`.
    """

    tree: BudgetTree
    flow: str
    run_id: str
    own: tuple[Limit, ...]
    steps: Mapping[str, Limit]
    owner: str

    def accounts(self, when: str, step: str = "") -> tuple[Account, ...]:
        """The budgets above work that begins then (RFC 3339 UTC), widest first; none: nothing limits it."""
        one = (step, self.steps.get(step))
        return self.tree.accounts(when[:10], self.flow, (self.run_id, self.own), one)

    def open_step(self, step: str, tell: Callable[[str, Act], None] | None = None) -> StepBudget:
        return StepBudget(self, step, tell)

    def thrift(self, when: str) -> Thrift:
        return self.tree.chapter(when).thrift

    def reconcile(self, events: Iterable[UsageEvent], *, live: Sequence[str] = (), end: bool = False) -> None:
        """Puts the figures right from the run's usage: after a crash, and for good at its end.

        `live` are owners that may still settle what they reserved. Raises CostError when nobody counts.
        """
        found = list(events)
        when = min((event.occurred_at for event in found), default=format_time())
        if not (self.steps or self.accounts(when) or self.accounts(format_time())):
            return
        self.tree.counter.reconcile(self.run_id, self._spent(found), live=live, end=end)

    def _spent(self, events: Iterable[UsageEvent]) -> dict[str, Spent]:
        spent: dict[str, Spent] = {}
        for event in events:
            name = reservation_of(event)
            keys = self._all_keys(event.occurred_at, event.step)
            known = spent.get(name, Spent(keys, 0))
            spent[name] = Spent(
                known.keys,
                known.nano + (event.cost_nano or 0),
                known.tokens + event.tokens_in + event.tokens_out,
                known.unknown + (event.cost_nano is None),
                known.settled and event.phase == "settled" and not (event.estimated and not event.tokens_in),
            )
        return spent

    def _all_keys(self, when: str, step: str) -> tuple[str, ...]:
        """Also of what nothing limits: a limit that comes later finds what was spent before."""
        limited = tuple(account.key for account in self.accounts(when, step))
        return tuple(dict.fromkeys((*limited, *self.tree.period_keys(when[:10], self.flow))))


class StepBudget:
    """The budgets above one step, for its compute and its model calls. Safe between threads.

    `tell` hears of each threshold that is reached, with the step's name, once.
    """

    def __init__(
        self,
        run: RunBudget,
        step: str,
        tell: Callable[[str, Act], None] | None = None,
    ) -> None:
        self._run = run
        self._step = step
        self._tell = tell
        self._held: dict[str, tuple[tuple[Account, ...], int, int]] = {}
        self._place = f"run {run.run_id}, step {step}"
        self.actions: frozenset[str] = frozenset()  # in force when it was last asked

    @property
    def held(self) -> bool:
        """Whether anything is reserved just now."""
        return bool(self._held)

    def reserve(self, reservation_id: str, nano: int | None, tokens: int, when: str) -> None:
        """Raises CostError (`budget-exhausted`, `budget-price-unknown`, `budget-frozen`): nothing is held."""
        accounts = self._run.accounts(when, self._step)
        if not accounts:
            return
        grant = self._counter.reserve(
            accounts,
            nano,
            tokens,
            reservation_id,
            run_id=self._run.run_id,
            owner=self._run.owner,
            place=self._place,
        )
        self._held[reservation_id] = (accounts, nano or 0, tokens)
        self._note(grant)

    def settle(self, reservation_id: str, nano: int, tokens: int, *, unknown: int = 0) -> None:
        held = self._held.pop(reservation_id, None)
        if held is not None:
            self._note(
                self._counter.settle(
                    held[0],
                    reservation_id,
                    nano,
                    tokens,
                    run_id=self._run.run_id,
                    owner=self._run.owner,
                    unknown=unknown,
                )
            )

    def keep(self, reservation_id: str) -> None:
        """What it came to will never be known: it may be all of it."""
        if reservation_id in self._held:
            _, nano, tokens = self._held[reservation_id]
            self.settle(reservation_id, nano, tokens)

    def release(self, reservation_id: str) -> None:
        held = self._held.pop(reservation_id, None)
        if held is not None:
            keys = [account.key for account in held[0]]
            self._counter.release(reservation_id, run_id=self._run.run_id, keys=keys)

    def left_tokens(self) -> int | None:
        """What the tightest token budget leaves; None when there is none."""
        accounts = self._run.accounts(format_time(), self._step)
        limits = {account.key: account.tokens for account in accounts if account.tokens is not None}
        if not limits:
            return None
        tallies = self._counter.read(limits)
        return min(max(0, limit - tallies[key].used_tokens) for key, limit in limits.items())

    @property
    def _counter(self) -> Counter:
        return self._run.tree.counter

    def _note(self, grant: Grant) -> None:
        self.actions = grant.actions
        if self._tell is not None:
            for act in grant.acts:
                self._tell(self._step, act)


class BudgetTree:
    """The budgets of one project. Reads its file again when it has changed; opens its counter when needed.

    `book` is the path of budgets.yaml, or a book; None: only flows and requests set limits.
    """

    def __init__(
        self,
        book: Path | BudgetBook | None = None,
        counter: Callable[[], Counter] = MemoryCounter,
        *,
        tenant: str = "default",
        project: str = "default",
    ) -> None:
        self.tenant = tenant
        self.project = project
        self._source = book
        self._open_counter = counter
        self._read: tuple[tuple[int, int], BudgetBook] | None = None

    @cached_property
    def counter(self) -> Counter:
        return self._open_counter()

    @property
    def book(self) -> BudgetBook:
        """Raises CostError (`budgets-invalid`)."""
        if not isinstance(self._source, Path):
            return self._source or BudgetBook()
        try:
            status = self._source.stat()
            mark = (status.st_mtime_ns, status.st_size)
        except OSError:
            mark = (0, 0)
        if self._read is None or self._read[0] != mark:
            self._read = (mark, BudgetBook.load(self._source))
        return self._read[1]

    def chapter(self, day: str) -> Chapter:
        return self.book.chapter(day) or _BEFORE

    def open_run(
        self,
        flow: str,
        run_id: str,
        own: Iterable[Limit] = (),
        steps: Mapping[str, Limit] | None = None,
        owner: str = "",
    ) -> RunBudget:
        """`own`: limits of the flow and the request; `steps`: of its steps; `owner`: who reserves."""
        return RunBudget(self, flow, run_id, tuple(own), steps or {}, owner)

    def accounts(
        self,
        day: str,
        flow: str,
        run: tuple[str, tuple[Limit, ...]] | None = None,
        step: tuple[str, Limit | None] = ("", None),
    ) -> tuple[Account, ...]:
        """Widest first: tenant, project, flow by day, month and quarter, then the run and the step."""
        return _list_accounts(self.chapter(day), day, (self.tenant, self.project, flow), run, step)

    def node_accounts(self, path: str, day: str) -> tuple[Account, ...]:
        """The accounts of one node, `tenant[/project[/flow]]`, limited or not."""
        chapter, names = self.chapter(day), path.split("/")
        limits, scope = chapter.path(*names)[-1].limits, SCOPES[len(names) - 1]
        return tuple(
            _make_account(path, f"{scope} {path}", period, limits.get(period.name, Limit()), chapter)
            for period in periods_of(day)
        )

    def month_account(self, day: str) -> Account:
        """The tenant's account of the month that the day is in, limited or not."""
        _, month, _ = self.node_accounts(self.tenant, day)
        return month

    def period_keys(self, day: str, flow: str) -> tuple[str, ...]:
        """The accounts of tenant, project and flow that the day belongs to, limited or not."""
        names = (self.tenant, self.project, flow)
        if not self.chapter(day).limits_periods(*names):
            return ()
        paths = ["/".join(names[:depth]) for depth in range(1, len(names) + 1)]
        return tuple(_period_key(path, period) for path in paths for period in periods_of(day))

    def run_limit(self, flow: str, day: str) -> int | None:
        """What the file lets a run of the flow cost at most."""
        nodes = self.chapter(day).path(self.tenant, self.project, flow)
        return _tightest([node.limits[_RUN] for node in nodes if _RUN in node.limits]).hard_nano

    def admit(self, flow: str, nano: int | None, day: str) -> tuple[list[CostError], list[str]]:
        """(why a run of this estimated cost may not begin, what its budgets warn of). Holds nothing."""
        path = f"{self.tenant}/{self.project}/{flow}"
        refused = [
            frozen_error(freeze, "")
            for freeze in self.counter.list_frozen()
            if f"{path}/".startswith(f"{freeze.path}/")
        ]
        accounts = self.accounts(day, flow)
        if not accounts:
            return refused, []
        tallies = self.counter.read([account.key for account in accounts])
        warnings = []
        for account in accounts:
            tally = tallies[account.key]
            actions = reached(account, tally)
            hard = account.hard_nano
            left = None if hard is None else max(0, hard - tally.used_nano)
            if hard is not None and left is not None and (left == 0 or (nano or 0) > left):
                asked = "the price of the run is unknown" if nano is None else _asks(nano)
                limit = f"{format_nano(hard)} USD"
                refused.append(exhausted_error(account, limit, f"{format_nano(left)} USD", asked, ""))
            elif "freeze" in actions and account.tokens is not None:
                asked = "a run needs some"
                refused.append(exhausted_error(account, f"{account.tokens} tokens", "0 tokens", asked, ""))
            elif actions:
                warnings.append(Act(actions[-1], account, tally.spent_nano, tally.spent_tokens).to_text())
        return refused, warnings

    def freeze(self, path: str, reason: str, by: str) -> None:
        """Stops a tenant, project or flow of this tree: nothing is spent and admitted below it."""
        self._check_path(path)
        self.counter.freeze(Freeze(path, reason, by, format_time()))

    def thaw(self, path: str) -> bool:
        self._check_path(path)
        return self.counter.thaw(path)

    def _check_path(self, path: str) -> None:
        parts = path.split("/")
        if not 1 <= len(parts) <= len(SCOPES) or parts[0] != self.tenant or not all(parts):
            raise CostError(
                f"{path!r} names no budget of this project",
                remedy=f"give {self.tenant}, {self.tenant}/{self.project}, or a flow below it",
                code="budget-unknown",
            )


def work_id(run_id: str, step: str, iteration: int, attempt: int) -> str:
    """The reservation of all that an attempt uses apart from model calls."""
    return f"{run_id}/{step}/{iteration}/{attempt}/work"


def reservation_of(event: UsageEvent) -> str:
    """The reservation that an event settles: each model call has its own."""
    if event.kind == "llm":
        return event.event_id
    return work_id(event.run_id, event.step, event.iteration, event.attempt)


@lru_cache(maxsize=1024)
def _list_accounts(
    chapter: Chapter,
    day: str,
    names: tuple[str, str, str],
    run: tuple[str, tuple[Limit, ...]] | None,
    step: tuple[str, Limit | None],
) -> tuple[Account, ...]:
    nodes = chapter.path(*names)
    found: list[Account] = []
    for depth, (scope, node) in enumerate(zip(SCOPES, nodes, strict=True), start=1):
        path = "/".join(names[:depth])
        found += [
            _make_account(path, f"{scope} {path}", period, node.limits[period.name], chapter)
            for period in periods_of(day)
            if period.name in node.limits
        ]
    if run is not None:
        run_id, own = run
        path = "/".join((*names, run_id))
        limits = [*own, *(node.limits[_RUN] for node in nodes if _RUN in node.limits)]
        if limits or found or step[1] is not None:  # also without a limit: the node can be frozen
            found.append(_make_account(path, f"run {run_id}", None, _tightest(limits), chapter))
        if step[1] is not None:
            name = f"step {step[0]} of run {run_id}"
            found.append(_make_account(f"{path}/{step[0]}", name, None, step[1], chapter))
    return tuple(found)


def _make_account(path: str, name: str, period: Period | None, limit: Limit, chapter: Chapter) -> Account:
    return Account(
        key=f"{path}#{_RUN}" if period is None else _period_key(path, period),
        name=name if period is None else f"{name}, {period.name} {period.label}",
        renews="" if period is None else period.until,
        soft_nano=limit.soft_nano,
        hard_nano=limit.hard_nano,
        tokens=limit.tokens,
        actions=chapter.actions,
    )


def _period_key(path: str, period: Period) -> str:
    return f"{path}#{period.name}:{period.label}"


def _tightest(limits: Sequence[Limit]) -> Limit:
    return Limit(
        min((limit.soft_nano for limit in limits if limit.soft_nano is not None), default=None),
        min((limit.hard_nano for limit in limits if limit.hard_nano is not None), default=None),
        min((limit.tokens for limit in limits if limit.tokens is not None), default=None),
    )


def _asks(nano: int) -> str:
    return f"the run is estimated at {format_nano(nano)} USD"
