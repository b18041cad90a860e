"""The budgets of a project as its operator asks for them."""

from __future__ import annotations

import difflib
import time
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import CostError, JournalError, MaestroError
from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.costs.budget import BudgetTree


def show_budgets(project: Project) -> dict[str, Any]:
    """How every budget stands, those of runs that are going on too."""
    from maestro_dagster.costs.budget import RunBudget
    from maestro_dagster.costs.budget_report import budget_report, list_standings
    from maestro_dagster.engine.trying import open_budget
    from maestro_dagster.project.database import find_journal
    from maestro_dagster.project.services import open_budgets

    tree, journal, day = open_budgets(project), find_journal(project), today()

    def find_run(run_id: str) -> RunBudget | None:
        if journal is None:
            return None
        try:
            run = journal.run(run_id)
        except JournalError:
            return None  # another project of the tenant counts in the same database
        return open_budget(tree, run, journal.flow(run.flow_digest))

    try:
        standings = list_standings(tree, day, find_run)
        return budget_report(
            standings, tree.counter.list_frozen(), tenant=tree.tenant, project=tree.project, day=day
        )
    finally:
        tree.counter.close()
        if journal is not None:
            journal.close()


def freeze_node(project: Project, node: str, reason: str, by: str) -> tuple[dict[str, Any], str]:
    """`{"path", "frozen", "known", "replaced"}` and a warning, which is empty for a node that there is.

    `replaced` is the `{"reason", "by", "at"}` of a freeze that was there before. Raises CostError
    (`budget-unknown`).
    """
    from maestro_dagster.project.services import open_budgets

    tree = open_budgets(project)
    try:
        former = next((freeze for freeze in tree.counter.list_frozen() if freeze.path == node), None)
        tree.freeze(node, reason, by)
        warning = "" if tree.counter.list_tallies(node) else _doubt_node(project, node, tree)
    finally:
        tree.counter.close()
    replaced = {"reason": former.reason, "by": former.by, "at": former.at} if former else None
    return {"path": node, "frozen": True, "known": not warning, "replaced": replaced}, warning


def _doubt_node(project: Project, node: str, tree: BudgetTree) -> str:
    """Why a node may be a slip: it is frozen all the same, since its flow may be yet to come."""
    _, *rest = node.split("/")
    if not rest or node == f"{tree.tenant}/{tree.project}":
        return ""
    if rest[0] != tree.project:
        names, what = [f"{tree.tenant}/{tree.project}"], f"no project {rest[0]!r} has spent anything here"
    else:
        try:
            flows = list(project.flows())
        except MaestroError:
            return ""  # a flow that cannot be read must not be in the way of a brake
        if rest[1] in flows:
            return ""
        names, what = (
            [f"{tree.tenant}/{tree.project}/{flow}" for flow in flows],
            f"there is no flow {rest[1]!r}",
        )
    near = difflib.get_close_matches(node, names, n=3, cutoff=0.8)
    hint = f"; there is {', '.join(near)}" if near else ""
    return f"{what}, so the freeze may be of no use{hint}"


def recount_budgets(project: Project) -> int:
    """Counts the usage of this quarter anew, for counters that were lost. Gives how many accounts there are.

    Only for the file of the home: a database is shared, and no project has the usage of all. Usage of
    runs that have not ended is left out, since they book it themselves when they go on.
    """
    from maestro_dagster.costs.budget_report import sum_usage
    from maestro_dagster.costs.compact import read_usage
    from maestro_dagster.costs.counter_sqlite import SqliteCounter
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.period import periods_of
    from maestro_dagster.project.database import find_journal
    from maestro_dagster.project.services import open_budgets, open_spool

    tree = open_budgets(project, anew=True)
    if not isinstance(tree.counter, SqliteCounter):
        raise CostError(
            "budgets that are counted in PostgreSQL are shared, and are not counted anew from one project",
            place="setting database",
            remedy="restore the database from its backup",
            code="budget-recount-shared",
        )
    going: set[str] = set()
    if (journal := find_journal(project)) is not None:
        going = {run_id for status in ("requested", "running") for run_id, _ in journal.statuses(status)}
        journal.close()
    since = periods_of(today())[2].since
    events = read_usage(open_spool(project), open_lake(project.lake), since=since)
    sums = sum_usage(tree, (event for event in events if event.run_id not in going))
    tree.counter.restore(sums)
    tree.counter.close()
    return len(sums)


def today() -> str:
    """YYYY-MM-DD in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())
