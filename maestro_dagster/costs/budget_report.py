"""How the budgets of a project stand: the tree as rows, what has to be told, and counting anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from maestro_dagster.costs.account import (
    ACTIONS,
    Account,
    Act,
    Freeze,
    Tally,
    action_bits,
    add_spent,
    list_paths,
    reached,
)
from maestro_dagster.costs.budget import SCOPES, BudgetTree, RunBudget
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.manifest.money import format_nano

Standing = tuple[Account, Tally]
FindRun = Callable[[str], RunBudget | None]


def list_standings(tree: BudgetTree, day: str, find_run: FindRun | None = None) -> list[Standing]:
    """Every account of the project's tenant in the periods of `day`, parents first, then what is live.

    Nodes that nothing limits are listed once something was spent there. `find_run` gives a run that is
    still going; runs that it does not know are left out.
    """
    tallies = tree.counter.list_tallies(tree.tenant)
    found: list[Standing] = []
    for path in sorted(_nodes(tree, day, tallies)):
        for account in tree.node_accounts(path, day):
            tally = tallies.get(account.key, Tally())
            limited = account.hard_nano is not None or account.soft_nano is not None or account.tokens
            if limited or tally != Tally():
                found.append((account, tally))
    if find_run is not None:
        found += _live(day, tallies, find_run)
    return found


def find_alerts(tree: BudgetTree, day: str) -> list[Act]:
    """Thresholds that were reached and not sent on before, by anybody; as `tell`, soft and the highest other.

    Changes nothing: `take_alert` makes one the caller's to send on.
    """
    alerts = []
    for account, tally in list_standings(tree, day):
        new = [action for action in reached(account, tally) if not tally.alerted & action_bits([action])]
        hard = [action for action in new if action != "soft"]
        told = [*(["soft"] if "soft" in new else []), *hard[-1:]]
        alerts += [Act(action, account, tally.spent_nano, tally.spent_tokens) for action in told]
    return alerts


def take_alert(tree: BudgetTree, alert: Act) -> bool:
    """Whether the alert is the caller's to send on; once a period, whoever asks. Lower ones go with it."""
    hard = [action for action in ACTIONS if action != "soft"]
    told = ["soft"] if alert.action == "soft" else hard[: hard.index(alert.action) + 1]
    new = tree.counter.mark_alerted(alert.account.key, action_bits(told))
    return bool(new & action_bits([alert.action]))


def budget_report(
    standings: Sequence[Standing], frozen: Iterable[Freeze], *, tenant: str, project: str, day: str
) -> dict[str, Any]:
    """The stable shape of `maestro cost budget --json`."""
    stopped = {freeze.path: freeze for freeze in frozen}
    return {
        "tenant": tenant,
        "project": project,
        "day": day,
        "budgets": [_row(account, tally, stopped) for account, tally in standings],
        "frozen": [
            {"path": each.path, "reason": each.reason, "by": each.by, "at": each.at}
            for each in stopped.values()
            if each.path == tenant or each.path.startswith(f"{tenant}/")
        ],
    }


def sum_usage(tree: BudgetTree, events: Iterable[UsageEvent]) -> dict[str, Tally]:
    """What the accounts of the tree would stand at if nothing but these events were booked."""
    sums: dict[str, Tally] = {}
    for event in events:
        if event.tenant != tree.tenant or event.project != tree.project:
            continue
        tokens = event.tokens_in + event.tokens_out
        for key in tree.period_keys(event.occurred_at[:10], event.flow):
            tally = sums.get(key, Tally())
            sums[key] = add_spent(tally, event.cost_nano or 0, tokens, int(event.cost_nano is None))
    return sums


def _nodes(tree: BudgetTree, day: str, tallies: Mapping[str, Tally]) -> set[str]:
    return {
        path
        for path in list_paths(list(tallies)) | _paths(tree, day)
        if path.count("/") < len(SCOPES) and path.split("/")[0] == tree.tenant
    }


def _paths(tree: BudgetTree, day: str) -> set[str]:
    """The nodes that the file names, and the project's own."""
    paths = {tree.tenant, f"{tree.tenant}/{tree.project}"}
    (tenant,) = tree.chapter(day).path(tree.tenant)
    for project, node in tenant.children.items():
        paths.add(f"{tree.tenant}/{project}")
        paths.update(f"{tree.tenant}/{project}/{flow}" for flow in node.children)
    return paths


def _live(day: str, tallies: Mapping[str, Tally], find_run: FindRun) -> Iterator[Standing]:
    for key, tally in sorted(tallies.items()):
        path, _, period = key.partition("#")
        below = path.split("/")[len(SCOPES) :]
        if period != "run" or not below or (run := find_run(below[0])) is None:
            continue
        for account in run.accounts(day, below[1] if len(below) > 1 else ""):
            if account.key == key:
                yield account, tally


def _row(account: Account, tally: Tally, frozen: Mapping[str, Freeze]) -> dict[str, Any]:
    hard = account.hard_nano
    stop = next((frozen[path] for path in sorted(list_paths([account.key])) if path in frozen), None)
    return {
        "path": account.path,
        "name": account.name,
        "spent_usd": format_nano(tally.spent_nano),
        "reserved_usd": format_nano(tally.reserved_nano),
        "soft_usd": None if account.soft_nano is None else format_nano(account.soft_nano),
        "hard_usd": None if hard is None else format_nano(hard),
        "left_usd": None if hard is None else format_nano(max(0, hard - tally.used_nano)),
        "percent": _percent(tally.spent_nano, hard),
        "tokens": tally.spent_tokens,
        "tokens_limit": account.tokens,
        "events_without_price": tally.unknown,
        "renews": f"{account.renews}T00:00:00Z" if account.renews else None,
        "actions": list(reached(account, tally)),
        "frozen": None if stop is None else stop.reason,
    }


def _percent(spent: int, limit: int | None) -> str | None:
    """With one place, cut off: 99.99 % is not 100."""
    if not limit:
        return None
    whole, tenth = divmod(spent * 1000 // limit, 10)
    return f"{whole}.{tenth}"
