"""`maestro cost forecast`: what the days to come will cost, and how sure that is."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.output import emit, json_option, print_table
from maestro_dagster.errors import CostError, ManifestError, UsageError
from maestro_dagster.manifest.money import format_nano, parse_budget

if TYPE_CHECKING:
    from maestro_dagster.costs.forecast import Backtest
    from maestro_dagster.costs.forecast_history import CostHistory
    from maestro_dagster.costs.forecast_outlook import Outlook

_METHODS = ("least-squares", "seasonal-naive", "auto-ets")
BY = ("tenant", "model", "flow")
_HISTORY_DAYS = 120
_SILENCE = 2.0  # seconds until progress is told, and between two tellings


@click.command(
    epilog="""\b
Example:
  maestro cost forecast
  maestro cost forecast --by model --days 14 --json
  maestro cost forecast --budget 500usd --svg forecast.svg
"""
)
@click.option("--by", type=click.Choice(BY), help="A forecast for each of these, not of all costs.")
@click.option("--days", type=click.IntRange(1, 366), help="From today on, not to the end of the month.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    help="Not least squares, or last week repeated where that did better.",
)
@click.option("--budget", metavar="AMOUNT", help="A limit for this month, such as 500usd.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the days and forecast to a file."
)
@json_option
def command(
    by: str | None, days: int | None, method: str | None, budget: str | None, svg: Path | None, as_json: bool
) -> None:
    """Forecast costs from their daily sums: the end of the month, and each day with a 90 % interval.

    Today is not over, so nothing is learnt from it. With less than 14 days of history there is no forecast.
    """
    from maestro_dagster.costs.forecast_outlook import draw_outlook, foresee, outlook_report

    if by is not None and (budget is not None or svg is not None):
        raise UsageError("--budget and --svg are for all costs", remedy="leave them out, or leave out --by")
    limit = read_amount(budget, "--budget") if budget is not None else None
    today = datetime.now(UTC).date()
    history = read_days(today - timedelta(days=_HISTORY_DAYS), today)
    progress = _Progress(len(history.names(by)))
    outlooks = foresee(history, by=by, days=days, method=method, limit_nano=limit, progress=progress)
    unknown = history.unknown
    if svg is not None:
        write_svg(svg, draw_outlook(outlooks[0], unknown=unknown))
    if as_json:
        emit(outlook_report(history, outlooks, by), as_json=True)
    elif not history.total:
        click.echo("no usage was recorded")
    else:
        _print_outlooks(outlooks, unknown) if by else _print_outlook(outlooks[0], unknown)


class _Progress:
    """A line on stderr now and then: AutoETS takes about a second for each name."""

    def __init__(self, names: int) -> None:
        self._names = names
        self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        if done < self._names and time.monotonic() - self._told >= _SILENCE:
            self._told = time.monotonic()
            click.echo(f"{done} of {self._names} names are forecast", err=True)


def read_amount(text: str, option: str) -> int:
    """Nano-USD. Raises UsageError: what was typed wrongly is a wrong call, not a wrong flow."""
    try:
        return parse_budget(text)
    except ManifestError as error:
        raise UsageError(error.fact, place=option, remedy=error.remedy, code=error.error_code) from None


def read_days(first: date, last: date) -> CostHistory:
    """The project's daily sums, of what is only in the spool too."""
    from maestro_dagster.costs.forecast_history import read_history
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_spool

    project = find_project()
    lake, spool = open_lake(project.lake), open_spool(project)
    return read_history(lake, spool, first=first.isoformat(), last=last.isoformat())


def write_svg(path: Path, text: str) -> None:
    """Raises CostError (`svg-write`)."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CostError(
            f"the picture cannot be written: {error.strerror}",
            place=str(path),
            remedy="name a file in a folder that you may write to",
            code="svg-write",
        ) from error


def say_unknown(unknown: int) -> None:
    """Costs that are not known are in no figure: that is said, never left out."""
    if unknown:
        click.echo(f"not counted: {unknown} events whose price is unknown")


def _print_outlook(outlook: Outlook, unknown: int) -> None:
    made, month = outlook.forecast, outlook.month
    print_table(
        ["day (UTC)", "usd", "low", "high"],
        [
            (row.day, *(format_nano(nano) for nano in (row.nano, row.low_nano, row.high_nano)))
            for row in made.days[: outlook.days]
        ],
    )
    line = f"month {month.first} to {month.last}: {format_nano(month.spent_nano)} USD so far"
    if month.end is not None:
        low, high = format_nano(month.end.low_nano), format_nano(month.end.high_nano)
        line += f", {format_nano(month.end.sum_nano)} USD at its end (between {low} and {high})"
    click.echo(line)
    if month.limit_nano is not None:
        when = "not reached this month" if made.method else "not reached yet, the rest cannot be said"
        if month.runs_out:
            when = f"reached on {month.runs_out}"
        click.echo(f"budget {format_nano(month.limit_nano)} USD: {when}")
    click.echo(f"method: {made.method or 'none'} ({made.reason})")
    for test in (made.backtest, made.naive if made.naive != made.backtest else None):
        if test is not None:
            click.echo(f"backtest over {test.days} days, {test.method}: {_say_test(test)}")
    say_unknown(unknown)


def _print_outlooks(outlooks: tuple[Outlook, ...], unknown: int) -> None:
    print_table(
        ["name", "usd so far", "month's end", "low", "high", "method", "mape", "naive"],
        [
            (
                row.name,
                format_nano(row.month.spent_nano),
                *(
                    (format_nano(end.sum_nano), format_nano(end.low_nano), format_nano(end.high_nano))
                    if (end := row.month.end)
                    else (None, None, None)
                ),
                row.forecast.method or "too little history",
                _percent(row.forecast.backtest),
                _percent(row.forecast.naive),
            )
            for row in outlooks
        ],
    )
    say_unknown(unknown)


def _say_test(test: Backtest) -> str:
    mase = "" if test.mase is None else f", MASE {test.mase:.2f}"
    return f"MAPE {_percent(test) or 'unknown'}{mase}"


def _percent(test: Backtest | None) -> str | None:
    return None if test is None or test.mape is None else f"{100 * test.mape:.1f} %"
