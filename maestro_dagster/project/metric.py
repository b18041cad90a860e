"""The figures of a project, out of its durable records: what `/metrics` serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maestro_dagster.errors import CostError, MaestroError
from maestro_dagster.project.root import Project
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.metric import MetricSource, RequestTimes, Sheet, render_metrics
from maestro_dagster.telemetry.patient import PatientSource

if TYPE_CHECKING:
    from maestro_dagster.costs.budget import BudgetTree
    from maestro_dagster.events.inbox import Inbox
    from maestro_dagster.events.outbox import Outbox
    from maestro_dagster.telemetry.redaction import Redactor

_SECONDS = 4.0  # that records get to answer; Prometheus gives up after ten


@dataclass(frozen=True, slots=True)
class Metrics:
    """`render` gives the text for Prometheus; `requests` is told of the answers of this process."""

    sources: tuple[MetricSource, ...]
    requests: RequestTimes
    hide: Callable[[str], str]
    info: tuple[str, ...]

    def render(self) -> bytes:
        for source in self.sources:
            if isinstance(source, PatientSource):
                source.ask()  # all of them, before the first is waited for
        return render_metrics(self.sources, hide=self.hide, info=self.info)


def open_metrics(project: Project, inbox: Inbox, redactor: Redactor | None = None) -> Metrics:
    """The figures of a project. Nothing is read before somebody asks; figures of ended runs are kept."""
    from importlib.metadata import version

    from maestro_dagster.engine.figure import JournalFigures
    from maestro_dagster.engine.figure_evidence import Listing
    from maestro_dagster.events.figure import read_received
    from maestro_dagster.evidence.store import EvidenceStore
    from maestro_dagster.objects.bucket import hide_password
    from maestro_dagster.project.database import open_journal
    from maestro_dagster.project.redaction import open_redactor
    from maestro_dagster.project.report import open_outbox
    from maestro_dagster.project.services import open_budgets

    redactor = redactor or open_redactor(project)
    requests = RequestTimes()
    evidence = EvidenceStore(project.evidence, project.evidence_url)
    journal = JournalFigures(
        open_journal(project),
        lambda ids: read_received(inbox.database, ids),
        listing=Listing(hide_password(project.evidence_url or "").rstrip("/"), evidence.runs),
    )
    settings = project.settings
    return Metrics(
        sources=(
            *(
                PatientSource(source, _SECONDS)
                for source in (
                    journal,
                    EventFigures(inbox),
                    ReportFigures(project, lambda: open_outbox(project)),
                    BudgetFigures(lambda: open_budgets(project, redactor)),
                )
            ),
            DiskFigures(project),
            requests,
        ),
        requests=requests,
        hide=redactor.hide_all,
        info=(version("maestro-dagster"), settings.tenant, settings.env),
    )


@dataclass(frozen=True, slots=True)
class EventFigures:
    """What came into the inbox and what of it waits."""

    inbox: Inbox
    name: str = "events"

    def fill(self, sheet: Sheet) -> None:
        from maestro_dagster.events.figure import age, count_events, read_waiting_events

        for (source, kind), count in self.inbox.database.run_read(count_events).items():
            sheet.add(name.EVENTS, count, source, kind)
        waiting = self.inbox.database.run_read(read_waiting_events)
        sheet.add(name.QUEUE_DEPTH, waiting.count, "events")
        sheet.add(name.QUEUE_OLDEST, age(waiting), "events")


class ReportFigures:
    """What the forges were told, and what they have yet to be told."""

    name = "reports"

    def __init__(self, project: Project, open_outbox: Callable[[], Outbox]) -> None:
        self._project = project
        self._open = open_outbox
        self._outbox: Outbox | None = None

    def fill(self, sheet: Sheet) -> None:
        from maestro_dagster.events.figure import age, count_reports, name_forges, read_waiting_reports

        if self._outbox is None:
            self._outbox = self._open()
        counts = self._outbox.database.run_read(count_reports)
        for (forge, outcome), count in name_forges(counts, self._forges()).items():
            sheet.add(name.REPORTS, count, forge, outcome)
        waiting = self._outbox.database.run_read(read_waiting_reports)
        sheet.add(name.QUEUE_DEPTH, waiting.count, "reports")
        sheet.add(name.QUEUE_OLDEST, age(waiting), "reports")

    def _forges(self) -> dict[str, str]:
        from maestro_dagster.events.forge import read_forges

        try:
            found = read_forges(self._project.root / "resources" / "forges.yaml")
        except MaestroError:
            return {}  # the webhooks say so; what was delivered is counted all the same
        return {each.name: each.forge for each in found}


class BudgetFigures:
    """The hard limits and how much of each is used."""

    name = "budgets"

    def __init__(self, open_tree: Callable[[], BudgetTree]) -> None:
        self._open = open_tree

    def fill(self, sheet: Sheet) -> None:
        tree = self._open()
        try:
            for budget, period, limit, used in _limits(tree):
                sheet.add(name.BUDGET_LIMIT, limit / 1e9, budget, period)
                sheet.add(name.BUDGET_USED, used / limit if limit else 1.0, budget, period)
            sheet.add(name.BUDGET_FROZEN, len(tree.counter.list_frozen()))
        finally:
            tree.counter.close()


def _limits(tree: BudgetTree) -> Iterator[tuple[str, str, int, int]]:
    """(path, period, limit, spent and reserved) in 10^-9 USD of every budget of today that has a limit."""
    from maestro_dagster.costs.budget_report import list_standings
    from maestro_dagster.project.budget import today

    for account, tally in list_standings(tree, today()):
        if account.hard_nano is not None:
            yield (
                account.path,
                account.key.partition("#")[2].partition(":")[0],
                account.hard_nano,
                tally.used_nano,
            )


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """How much room the project's state has."""

    project: Project
    name: str = "disk"

    def fill(self, sheet: Sheet) -> None:
        try:
            sheet.add(name.DISK_FREE, shutil.disk_usage(self.project.home).free)
        except OSError as error:
            raise CostError("the disk cannot be asked", place=str(self.project.home)) from error
