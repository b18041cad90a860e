"""The period that the verbs of `maestro cost` look at, and the usage of it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageEvent
    from maestro_dagster.costs.question import Costs

T = TypeVar("T")
_DAY = click.DateTime(["%Y-%m-%d"])
_SILENCE = 2.0  # seconds until it is told that there is much to read


def day_option(name: str, what: str) -> Callable[[Any], Any]:
    """An option that takes a day of UTC."""
    return click.option(name, type=_DAY, help=f"{what}, YYYY-MM-DD (UTC).")


def read_days(since: Any, until: Any) -> tuple[str | None, str | None]:
    """Both as YYYY-MM-DD. Raises UsageError for a period that ends before it begins."""
    if since and until and since > until:
        raise UsageError(
            f"--since {since:%Y-%m-%d} is after --until {until:%Y-%m-%d}", remedy="exchange the two days"
        )
    return since and f"{since:%Y-%m-%d}", until and f"{until:%Y-%m-%d}"


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
        from maestro_dagster.project.services import open_journal

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
