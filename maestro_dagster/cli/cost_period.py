"""The period that the verbs of `maestro cost` look at, and the usage of it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from maestro_dagster.errors import CostError, UsageError

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageEvent
    from maestro_dagster.costs.question import Costs

T = TypeVar("T")
_SILENCE = 2.0  # seconds until it is told that there is much to read


class _Day(click.ParamType[str]):
    """A day of UTC as YYYY-MM-DD, four digits of the year always: days are compared as texts."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from maestro_dagster.costs.table import parse_day

        try:
            return parse_day(value)
        except CostError as error:
            self.fail(f"{error.fact}: {error.remedy}", param, ctx)


DAY = _Day()


def day_option(name: str, what: str) -> Callable[[Any], Any]:
    """An option that takes a day of UTC, as text."""
    return click.option(name, type=DAY, help=f"{what}, YYYY-MM-DD (UTC).")


def check_days(since: str | None, until: str | None) -> None:
    """Raises UsageError for a period that ends before it begins."""
    if since and until and since > until:
        raise UsageError(f"--since {since} is after --until {until}", remedy="exchange the two days")


def ask_costs(ask: Callable[[Costs], T], since: str | None, until: str | None) -> T:
    """What `ask` makes of the project's usage in the period, that in the spool included."""
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.question import answer
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    project = find_project()
    with _patience():
        return answer(open_lake(project.lake), open_spool(project), ask, since=since, until=until)


def read_run_usage(run_id: str, since: str | None, until: str | None) -> list[UsageEvent]:
    """The run's events. Raises JournalError (`run-unknown`)."""
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.question import read_run
    from maestro_dagster.costs.table import in_period
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    project = find_project()
    with _patience():
        events = read_run(open_lake(project.lake), open_spool(project), run_id)
    # Usage may outlive the journal, so only a run that neither of them knows is unknown.
    if not events:
        from maestro_dagster.project.database import open_journal

        open_journal(project).run(run_id)
    return [event for event in events if in_period(event.occurred_at[:10], since, until)]


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    timer = threading.Timer(_SILENCE, lambda: print("reading the usage ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
