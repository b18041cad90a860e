"""Questions about a period: what it cost by anything, what was dearest, what changed, what was wasted.

Asked of the views (`costs.duck`), so a hundred million events are answered from thousands of rows; all sums
are decimals until they are whole nano-USD. An unknown price is counted beside the sum, never added as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from maestro_dagster.costs.schema import COUNTS
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import duckdb

    from maestro_dagster.costs.interface import UsageEvent, UsageSpool
    from maestro_dagster.costs.lake import Lake

T = TypeVar("T")
_WIDE: Final = Context(prec=60)
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Dimension:
    """`columns` of the `view` that groups are named by; `where` says which rows have such a name."""

    view: str
    columns: tuple[str, ...]
    where: str = "TRUE"


DIMENSIONS: Final = {
    "run": Dimension("usage", ("run_id",)),
    "step": Dimension("cube_day_flow_step", ("flow", "step")),
    "flow": Dimension("cube_day_flow_step", ("flow",)),
    "model": Dimension("cube_day_model", ("provider", "model"), "kind = 'llm'"),
    "provider": Dimension("cube_day_model", ("provider",)),
    "env": Dimension("cube_day_tenant", ("env",)),
    "tenant": Dimension("cube_day_tenant", ("tenant",)),
    "project": Dimension("cube_day_tenant", ("tenant", "project")),
    "kind": Dimension("cube_day_tenant", ("kind",)),
    "day": Dimension("cube_day_tenant", ("day",)),
}
PARTS: Final = {
    "all": Dimension("cube_day_tenant", ()),
    "failures": Dimension("cube_day_flow_step", (), "outcome IN ('failed', 'cancelled')"),
    "retries": Dimension("cube_day_flow_step", (), "retry"),
    "unsettled": Dimension("cube_day_tenant", (), "phase = 'intent'"),
}


@dataclass(frozen=True, slots=True)
class Group:
    """What one name cost. `nano` is of the events that have a price, `unknown` counts the others."""

    name: tuple[str, ...]
    nano: int
    unknown: int
    events: int
    counts: Mapping[str, int]


NOTHING: Final = Group((), 0, 0, 0, dict.fromkeys(COUNTS, 0))


@dataclass(frozen=True, slots=True)
class Change:
    """What a name cost in a period and in the one before, nano-USD."""

    name: tuple[str, ...]
    nano: int
    before_nano: int
    unknown: int
    before_unknown: int

    @property
    def more_nano(self) -> int:
        return self.nano - self.before_nano


class Costs:
    """The costs of a period, on a connection of `costs.duck`. Days are YYYY-MM-DD, both ends included."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def group(
        self, by: str, *, since: str | None = None, until: str | None = None, limit: int | None = None
    ) -> list[Group]:
        """A group per name, by name; with a limit the dearest, the dearest first."""
        dimension = DIMENSIONS[by]
        names = ", ".join(dimension.columns)
        order = f"cost_usd DESC NULLS LAST, {names} LIMIT {int(limit)}" if limit is not None else names
        columns = f"{_listed(dimension.columns)} {_sums(dimension.view)}"
        tail = f"GROUP BY {names} ORDER BY {order}"
        rows = self._select(columns, dimension.view, dimension.where, since, until, tail)
        return [_group(row, len(dimension.columns)) for row in rows]

    def total(self, since: str | None = None, until: str | None = None, part: str = "all") -> Group:
        """All of the period, or one of its `PARTS`; `unsettled` calls stand at their reserve."""
        chosen = PARTS[part]
        return _group(self._select(_sums(chosen.view), chosen.view, chosen.where, since, until)[0], 0)

    def daily(
        self, by: str | None = None, since: str | None = None, until: str | None = None
    ) -> dict[tuple[str, ...], dict[str, int]]:
        """Name -> day -> nano-USD of what has a price. `by` None: one name, `()`."""
        chosen = PARTS["all"] if by is None else DIMENSIONS[by]
        columns = f"{_listed(chosen.columns)} CAST(day AS VARCHAR), sum(cost_usd)"
        found: dict[tuple[str, ...], dict[str, int]] = {}
        tail = "GROUP BY ALL ORDER BY ALL"
        for *name, day, usd in self._select(columns, chosen.view, chosen.where, since, until, tail):
            found.setdefault(tuple(name), {})[day] = to_nano(usd)
        return found

    def changes(self, by: str, first: tuple[str, str], second: tuple[str, str], limit: int) -> list[Change]:
        """What moved most from the first period to the second, upwards or downwards, the most first."""
        before, after = (
            {group.name: group for group in self.group(by, since=since, until=until)}
            for since, until in (first, second)
        )
        found = []
        for name in before.keys() | after.keys():
            old, new = before.get(name, NOTHING), after.get(name, NOTHING)
            found.append(Change(name, new.nano, old.nano, new.unknown, old.unknown))
        found.sort(key=lambda change: (-abs(change.more_nano), change.name))
        return [change for change in found if change.more_nano][:limit]

    def unknown(self, since: str | None = None, until: str | None = None) -> list[dict[str, Any]]:
        """What has no price, so that the operator knows which line to add to which file."""
        columns, tail = "kind, provider, model, sum(unknown)", "GROUP BY ALL ORDER BY ALL"
        return [
            {"kind": kind, "provider": provider, "model": model, "events": int(events)}
            for kind, provider, model, events in self._select(
                columns, "cube_day_model", "unknown > 0", since, until, tail
            )
        ]

    def dearest(
        self, by: str, limit: int, since: str | None = None, until: str | None = None
    ) -> tuple[list[Group], int]:
        """The dearest groups, the dearest first, and how many groups there are in all.

        Of millions of names the counts of the others are never added up: they are chosen by cost first.
        """
        chosen = DIMENSIONS[by]
        names = ", ".join(chosen.columns)
        order = f"cost_usd DESC NULLS LAST, {names}"
        where = f"{chosen.where} AND {_within(since, until)}"
        # Names come from this file and days are parsed, as in `_select`.
        sql = f"""
            WITH priced AS MATERIALIZED (
                SELECT {names}, sum(cost_usd) AS cost_usd FROM {chosen.view} WHERE {where} GROUP BY {names}
            ), top AS MATERIALIZED (SELECT {names} FROM priced ORDER BY {order} LIMIT {int(limit)})
            SELECT (SELECT count(*) FROM priced), {_listed(chosen.columns)} {_sums(chosen.view)}
            FROM {chosen.view} SEMI JOIN top USING ({names}) WHERE {where}
            GROUP BY {names} ORDER BY {order}
            """  # noqa: S608
        rows = self._connection.execute(sql).fetchall()
        return [_group(row[1:], len(chosen.columns)) for row in rows], int(rows[0][0]) if rows else 0

    def days(self) -> tuple[str | None, str | None]:
        """First and last day that have usage."""
        columns = "CAST(min(day) AS VARCHAR), CAST(max(day) AS VARCHAR)"
        first, last = self._select(columns, "cube_day_tenant", "TRUE", None, None)[0]
        return first, last

    def events(self, run_id: str) -> list[UsageEvent]:
        """The run's events, by time."""
        from maestro_dagster.costs.frame import frame_of, list_events

        sql = "SELECT * EXCLUDE (day) FROM usage WHERE run_id = ? ORDER BY occurred_at, event_id"
        return list_events(frame_of(self._connection.sql(sql, params=[run_id]).to_arrow_table()))

    def rows(self, name: str) -> list[Any]:
        """The rows of a query of the package, `sql/<name>.sql`, over the whole period."""
        from maestro_dagster.costs.duck import read_view

        return self._connection.execute(read_view(name)).fetchall()

    def _select(
        self, columns: str, view: str, where: str, since: str | None, until: str | None, tail: str = ""
    ) -> list[Any]:
        # Names come from this file and days are parsed: nothing of a caller's is in the text of a query.
        sql = f"SELECT {columns} FROM {view} WHERE {where} AND {_within(since, until)} {tail}"  # noqa: S608
        return self._connection.execute(sql).fetchall()


def answer(
    lake: Lake,
    spool: UsageSpool | None,
    ask: Callable[[Costs], T],
    *,
    since: str | None = None,
    until: str | None = None,
) -> T:
    """Opens the views over the period and asks; again, when a file was compacted away meanwhile.

    Raises CostError (`lake-damaged`, `spool-corrupt`).
    """
    import duckdb

    from maestro_dagster.costs.duck import open_views

    for left in reversed(range(_TRIES)):
        try:
            with open_views(lake, spool, since, until) as connection:
                return ask(Costs(connection))
        except duckdb.Error as error:
            if left and isinstance(error, duckdb.IOException):
                continue
            raise CostError(
                f"the usage lake cannot be read: {str(error).splitlines()[0][:200]}",
                place=lake.location,
                remedy="restore the day's folder from a backup, or remove it and compact the day again",
                code="lake-damaged",
            ) from error
    raise AssertionError


def read_run(lake: Lake, spool: UsageSpool, run_id: str) -> list[UsageEvent]:
    """The run's events in spool and lake together, each once, by time."""
    from maestro_dagster.costs.spool import resolve_events

    # The spool first: what a compaction takes from it meanwhile is in the lake by then.
    fresh = spool.read_run(run_id)
    stored = answer(lake, None, lambda costs: costs.events(run_id)) if lake.usage.days() else []
    return sorted(resolve_events([*stored, *fresh]), key=lambda event: (event.occurred_at, event.event_id))


@dataclass(frozen=True, slots=True)
class MonthToDate:
    """A month up to and including a day, and the month before up to the same day of the month."""

    month: str
    until: str
    total: Group
    before: Group
    days: tuple[tuple[str, int], ...]
    models: tuple[Group, ...]
    flows: tuple[Group, ...]
    failures: Group
    retries: Group


def month_to_date(costs: Costs, today: str, limit: int = 10) -> MonthToDate:
    """Costs since the first of the month of `today` (YYYY-MM-DD); the views reach back two months."""
    day = date.fromisoformat(today)
    first = day.replace(day=1)
    last_before = first - timedelta(days=1)
    same_day = last_before.replace(day=min(day.day, last_before.day))
    since = first.isoformat()
    return MonthToDate(
        month=today[:7],
        until=today,
        total=costs.total(since, today),
        before=costs.total(last_before.replace(day=1).isoformat(), same_day.isoformat()),
        days=tuple(costs.daily(None, since, today).get((), {}).items()),
        models=tuple(costs.group("model", since=since, until=today, limit=limit)),
        flows=tuple(costs.group("flow", since=since, until=today, limit=limit)),
        failures=costs.total(since, today, "failures"),
        retries=costs.total(since, today, "retries"),
    )


def month_reach(today: str) -> str:
    """The first day that `month_to_date` looks at."""
    first = date.fromisoformat(today).replace(day=1)
    return (first - timedelta(days=1)).replace(day=1).isoformat()


def period_before(since: str, until: str) -> tuple[str, str]:
    """The days of the same number that end before `since`."""
    first, last = date.fromisoformat(since), date.fromisoformat(until)
    return (first - (last - first) - timedelta(days=1)).isoformat(), (first - timedelta(days=1)).isoformat()


def to_nano(usd: Decimal | None) -> int:
    """Whole nano-USD of a DECIMAL with 9 places; 0 for the sum of nothing."""
    return 0 if usd is None else int(usd.scaleb(9, _WIDE))


def _listed(columns: Sequence[str]) -> str:
    return "".join("CAST(day AS VARCHAR), " if name == "day" else f"{name}, " for name in columns)


def _sums(view: str) -> str:
    counted = (
        "count(*), count(*) - count(cost_usd)"
        if view == "usage"
        else "coalesce(sum(events), 0), coalesce(sum(unknown), 0)"
    )
    return f"sum(cost_usd) AS cost_usd, {counted}, " + ", ".join(
        f"coalesce(sum({name}), 0)" for name in COUNTS
    )


def _within(since: str | None, until: str | None) -> str:
    """SQL for the days; they are dates by now, so nothing of a caller's gets into a query."""
    parts = [
        f"day {sign} DATE '{date.fromisoformat(day).isoformat()}'"
        for sign, day in ((">=", since), ("<=", until))
        if day is not None
    ]
    return " AND ".join(parts) or "TRUE"


def _group(row: Sequence[Any], names: int) -> Group:
    usd, events, unknown, *counts = row[names:]
    return Group(
        name=tuple(row[:names]),
        nano=to_nano(usd),
        unknown=int(unknown),
        events=int(events),
        counts={name: int(count) for name, count in zip(COUNTS, counts, strict=True)},
    )
