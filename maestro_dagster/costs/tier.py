"""`resources/budgets.yaml`: which limits hold for whom, by date."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from maestro_dagster.costs.account import ACTIONS
from maestro_dagster.errors import CostError, ManifestError
from maestro_dagster.manifest.money import parse_usd
from maestro_dagster.manifest.plain_yaml import load_plain_yaml

PERIODS = ("run", "day", "month", "quarter")
FREEZE = ("freeze", 100)
_CHOSEN = ACTIONS[1:-1]  # warn, downgrade, slow: the file says at which percent
_LIMIT = ("soft", "hard", "tokens")
_ENTRY = ("valid_from", "actions", "downgrade", "slow", "tiers", "default", "tenants")
_CHILDREN = {"tenant": "projects", "project": "flows", "flow": ""}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MOST_TOKENS = 10**15


@dataclass(frozen=True, slots=True)
class Limit:
    """10^-9 USD and tokens. None does not limit."""

    soft_nano: int | None = None
    hard_nano: int | None = None
    tokens: int | None = None


Limits = Mapping[str, Limit]  # by period


@dataclass(frozen=True, slots=True)
class Thrift:
    """What `downgrade` and `slow` do: a cap on each answer, stand-ins for models, seconds between steps."""

    max_tokens: int = 512
    models: Mapping[str, str] = field(default_factory=dict)
    delay: float = 1.0


@dataclass(frozen=True, slots=True)
class Node:
    """A tenant, project or flow: its own limits, its tier's where it has none, and what is below it."""

    limits: Limits = field(default_factory=dict)
    tier: str = ""
    children: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Chapter:
    """What holds from one date on. Compared and hashed as the object that it is."""

    valid_from: str
    actions: tuple[tuple[str, int], ...] = (("warn", 80), FREEZE)
    thrift: Thrift = field(default_factory=Thrift)
    default: Node = field(default_factory=Node)  # of tenants that the file does not name
    tenants: Mapping[str, Node] = field(default_factory=dict)

    def path(self, tenant: str, *below: str) -> tuple[Node, ...]:
        """The tenant and what is named below it; a node that the file does not know limits nothing."""
        node = self.tenants.get(tenant, self.default)
        found = [node]
        for name in below:
            node = node.children.get(name, Node())
            found.append(node)
        return tuple(found)

    def limits_periods(self, *names: str) -> bool:
        """Whether anything on the path has a limit that renews."""
        return any(period != PERIODS[0] for node in self.path(*names) for period in node.limits)


class BudgetBook:
    """The whole file. Without chapters nothing limits."""

    def __init__(self, chapters: Sequence[Chapter] = ()) -> None:
        self.chapters = tuple(chapters)
        self._days = [chapter.valid_from for chapter in chapters]

    @classmethod
    def load(cls, path: Path) -> BudgetBook:
        """A project without the file has no budgets but those of flows and requests.

        Raises CostError (`budgets-invalid`).
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise _invalid(f"the budgets cannot be read: {error.strerror}", str(path)) from error
        try:
            document = load_plain_yaml(data)
        except ValueError as error:
            raise _invalid(f"the budgets do not parse: {error}", str(path)) from None
        return cls.from_document(document, place=str(path))

    @classmethod
    def from_document(cls, document: Any, *, place: str = "budgets") -> BudgetBook:
        whole = _mapping(document, place, ("version", "currency", "budgets"))
        if str(whole.get("version")) != "1":
            raise _invalid("the budgets start with `version: 1`", place)
        if whole.get("currency") != "USD":
            raise _invalid("budgets are in USD: `currency: USD`", place)
        rows = whole.get("budgets")
        if not isinstance(rows, list):
            raise _invalid("`budgets` is a list of dated entries", place)
        chapters = [_read_chapter(row, f"{place}: budgets[{index}]") for index, row in enumerate(rows)]
        days = [chapter.valid_from for chapter in chapters]
        if days != sorted(set(days)):
            raise _invalid("entries stand in the order of `valid_from`, each date once", place)
        return cls(chapters)

    def chapter(self, day: str) -> Chapter | None:
        """What holds on a day (YYYY-MM-DD...); None before the first date."""
        index = bisect_right(self._days, day[:10])
        return self.chapters[index - 1] if index else None


def _read_chapter(row: Any, place: str) -> Chapter:
    entry = _mapping(row, place, _ENTRY)
    try:
        day = date.fromisoformat(str(entry.get("valid_from"))).isoformat()
    except ValueError:
        raise _invalid(f"`valid_from` is {entry.get('valid_from')!r}, which is not a date", place) from None
    tiers = {
        name: _read_limits(limits, f"{place}.tiers.{name}", PERIODS)
        for name, limits in _mapping(entry.get("tiers", {}), f"{place}.tiers").items()
    }
    default = Node()
    if (chosen := entry.get("default")) is not None:
        default = Node(_find_tier(tiers, chosen, f"{place}.default"), str(chosen))
    return Chapter(
        valid_from=day,
        actions=_read_actions(entry.get("actions", {"warn": 80}), f"{place}.actions"),
        thrift=_read_thrift(entry, place),
        default=default,
        tenants={
            name: _read_node(node, "tenant", tiers, f"{place}.tenants.{name}", default)
            for name, node in _names(entry.get("tenants", {}), f"{place}.tenants").items()
        },
    )


def _read_node(raw: Any, level: str, tiers: Mapping[str, Limits], place: str, default: Node) -> Node:
    below = _CHILDREN[level]
    node = _mapping(raw, place, ("tier", *PERIODS, *([below] if below else [])))
    tier = node.get("tier")
    inherited = default.limits if tier is None else _find_tier(tiers, tier, f"{place}.tier")
    own = {period: _read_limit(node[period], f"{place}.{period}") for period in PERIODS if period in node}
    children = _names(node.get(below, {}), f"{place}.{below}") if below else {}
    return Node(
        limits={**inherited, **own},
        tier=default.tier if tier is None else str(tier),
        children={
            name: _read_node(child, below[:-1], tiers, f"{place}.{below}.{name}", Node())
            for name, child in children.items()
        },
    )


def _names(raw: Any, place: str) -> Mapping[str, Any]:
    nodes = _mapping(raw, place)
    for name in nodes:
        if not _NAME.fullmatch(name):
            raise _invalid(f"{name!r} cannot name a tenant, project or flow", place)
    return nodes


def _find_tier(tiers: Mapping[str, Limits], name: Any, place: str) -> Limits:
    if not isinstance(name, str) or name not in tiers:
        raise _invalid(f"there is no tier {name!r}; the tiers are {', '.join(tiers) or '(none)'}", place)
    return tiers[name]


def _read_limits(raw: Any, place: str, periods: Sequence[str]) -> Limits:
    return {
        period: _read_limit(limit, f"{place}.{period}")
        for period, limit in _mapping(raw, place, periods).items()
    }


def _read_limit(raw: Any, place: str) -> Limit:
    limit = _mapping(raw, place, _LIMIT)
    if not limit:
        raise _invalid(f"a limit has at least one of {', '.join(_LIMIT)}", place)
    soft, hard = (
        _read_money(limit[name], f"{place}.{name}") if name in limit else None for name in ("soft", "hard")
    )
    if soft is not None and hard is not None and soft >= hard:
        raise _invalid("the soft limit must be below the hard one", place)
    tokens = limit.get("tokens")
    if tokens is not None and not _is_count(tokens, _MOST_TOKENS):
        raise _invalid(f"`tokens` is {tokens!r}, which is no whole number", place)
    return Limit(soft, hard, tokens)


def _read_money(raw: Any, place: str) -> int:
    if not isinstance(raw, str):
        raise _invalid("an amount is a decimal string in quotes: a bare number is read as binary", place)
    try:
        return parse_usd(raw)
    except ManifestError as error:
        raise _invalid(error.fact, place) from None


def _read_actions(raw: Any, place: str) -> tuple[tuple[str, int], ...]:
    chosen = _mapping(raw, place, (*_CHOSEN, "freeze"))
    if chosen.get("freeze", 100) != 100:  # noqa: PLR2004 - percent
        raise _invalid("`freeze` is at 100: the hard limit is where it freezes", place)
    found: list[tuple[str, int]] = []
    for action in _CHOSEN:
        if action not in chosen:
            continue
        percent = chosen[action]
        if not _is_count(percent, 99) or not percent:
            raise _invalid(f"`{action}` is {percent!r}, which is no whole percent from 1 to 99", place)
        if found and percent < found[-1][1]:
            raise _invalid(f"`{action}` comes after `{found[-1][0]}` and cannot be at a lower percent", place)
        found.append((action, percent))
    return (*found, FREEZE)


def _read_thrift(entry: Mapping[str, Any], place: str) -> Thrift:
    down = _mapping(entry.get("downgrade", {}), f"{place}.downgrade", ("max_tokens", "models"))
    tokens = down.get("max_tokens", Thrift().max_tokens)
    if not _is_count(tokens, 200_000) or not tokens:
        raise _invalid(f"`max_tokens` is {tokens!r}, which is no number of tokens", f"{place}.downgrade")
    models = _mapping(down.get("models", {}), f"{place}.downgrade.models")
    for name, other in models.items():
        if not isinstance(other, str) or not other:
            raise _invalid(
                "a model stands for another by name: `gpt-4o: gpt-4o-mini`",
                f"{place}.downgrade.models.{name}",
            )
    slow = _mapping(entry.get("slow", {}), f"{place}.slow", ("delay_seconds",))
    delay = slow.get("delay_seconds", Thrift().delay)
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= 3600:  # noqa: PLR2004
        raise _invalid(f"`delay_seconds` is {delay!r}, which is not 0 to 3600", f"{place}.slow")
    return Thrift(tokens, dict(models), float(delay))


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _mapping(raw: Any, place: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise _invalid("here stand names with values", place)
    if known is not None and (unknown := [name for name in raw if name not in known]):
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise _invalid(f"unknown key {unknown[0]!r}; {meant}", place)
    return raw


def _invalid(fact: str, place: str) -> CostError:
    return CostError(
        fact, place=place, remedy="see the comments in resources/budgets.yaml", code="budgets-invalid"
    )
