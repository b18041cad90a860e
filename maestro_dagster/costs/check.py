"""Checks of a day before it is published, and of what was made of it after.

SQL adds up the money, apart from the code that merged it: one query by DuckDB over the candidate, the file
that is published now and what the spool says. Shape is for Great Expectations (`costs.expectation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.cube import CUBES
from maestro_dagster.costs.expectation import GROUPS, Finding, judge_day, list_rules
from maestro_dagster.costs.known import Known, Severity
from maestro_dagster.costs.schema import COUNTS, MONEY
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.stage import Candidate

CHECKS: Final = {  # in the order in which a candidate is checked
    "money": "Added up by SQL, the day holds what was published and spooled, each event once.",
    "schema": "Columns in order, each of its type.",
    "ranges": "Counts, attempts and costs are possible.",
    "references": "Tenants, kinds, outcomes and tiers are known; so are flows and runs, or it is a warning.",
    "volume": "As many rows as was forecast; a warning, until it is many times more.",
    "project_expectations": "What resources/expectations.yaml adds.",
}
_WIDE: Final = Context(prec=60)
_SHOWN: Final = 20  # rows of a table: it goes into an event of Dagster's event log
_PARTS: Final = tuple(name for name in MONEY if name != "cost_usd")

# What the candidate must hold is worked out here a second time: of each event one row, a settlement before
# an intent, what is published before what is spooled.
_EXPECTED: Final = """
WITH stacked AS (
  SELECT event_id, phase, cost_usd, 0 AS place FROM published
  UNION ALL SELECT event_id, phase, cost_usd, 1 FROM spooled
)
SELECT event_id, cost_usd FROM stacked
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY phase <> 'settled', place) = 1
"""
_MONEY: Final = f"""
WITH expected AS ({_EXPECTED}),
wanted AS (SELECT count(*) AS wanted_rows, sum(cost_usd) AS wanted_usd,
    count(*) FILTER (cost_usd IS NULL) AS wanted_unknown FROM expected),
found AS (SELECT count(*) AS rows, sum(cost_usd) AS usd, count(*) FILTER (cost_usd IS NULL) AS unknown,
    count(*) - count(DISTINCT event_id) AS twice,
    count(*) FILTER (event_id = '' OR tenant = '' OR run_id = '' OR flow = '' OR step = '') AS nameless,
    count(*) FILTER (cost_usd < 0 AND NOT ({" + ".join(COUNTS)} = 0 AND price <> '')) AS negative,
    count(*) FILTER (cost_usd IS NOT NULL AND coalesce({", ".join(_PARTS)}) IS NOT NULL
        AND {" + ".join(f"coalesce({part}, 0)" for part in _PARTS)} <> cost_usd) AS unequal,
    count(*) FILTER (cost_usd IS NOT NULL AND price = '') AS unnamed,
    count(*) FILTER (epoch_us(occurred_at) NOT BETWEEN $first AND $last) AS strange,
    count(*) FILTER (NOT regexp_full_match(subject, '([0-9a-f]{{32}})?')) AS personal
  FROM candidate)
SELECT * FROM found, wanted
"""  # noqa: S608 - made of names in this code
_WHICH: Final = {  # finds events that a count counted
    "twice": "event_id IN (SELECT event_id FROM candidate GROUP BY 1 HAVING count(*) > 1)",
    "nameless": "event_id = '' OR tenant = '' OR run_id = '' OR flow = '' OR step = ''",
    "negative": f"cost_usd < 0 AND NOT ({' + '.join(COUNTS)} = 0 AND price <> '')",
    "unequal": f"cost_usd IS NOT NULL AND coalesce({', '.join(_PARTS)}) IS NOT NULL"
    f" AND {' + '.join(f'coalesce({part}, 0)' for part in _PARTS)} <> cost_usd",
    "unnamed": "cost_usd IS NOT NULL AND price = ''",
    "strange": "epoch_us(occurred_at) NOT BETWEEN $first AND $last",
    "personal": "NOT regexp_full_match(subject, '([0-9a-f]{32})?')",
}
_RULES: Final = {  # count -> what must hold
    "twice": "each event id once",
    "nameless": "event, tenant, run, flow and step are named",
    "negative": "no cost below 0, except credits: rows with a price's name that used nothing",
    "unequal": "the parts of a cost add up to it",
    "unnamed": "what has a cost says which price made it",
    "strange": "every event is of this day",
    "personal": "subject is a surrogate of 32 hexadecimal digits, or nothing",
}


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What came of a check. A check of severity `error` that did not pass keeps the day from being published.

    `facts` are the rows of a table: {"rule", "expected", "found", "passed"}, all texts.
    """

    name: str
    passed: bool
    severity: Severity
    facts: tuple[Mapping[str, str], ...]
    message: str

    @property
    def blocks(self) -> bool:
        return not self.passed and self.severity == "error"

    def shown(self) -> list[dict[str, str]]:
        """The facts for a table of the Dagster UI: what failed stands first, of many the first 20."""
        rows = sorted(self.facts, key=lambda fact: fact["passed"] == "yes")
        return [{name: fact[name] for name in FACT_COLUMNS} for fact in rows[:_SHOWN]]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "severity": self.severity,
            "message": self.message,
            "facts": [dict(fact) for fact in self.facts if self.passed or fact["passed"] != "yes"],
        }


FACT_COLUMNS: Final = ("rule", "expected", "found", "passed")


def check_candidate(candidate: Candidate, known: Known) -> list[CheckOutcome]:
    """All checks of a day before it is published, in the order of `CHECKS`.

    Raises CostError (`expectation-invalid`) for an expectation of the operator that cannot be computed.
    """
    money = check_money(candidate.day, candidate.table, candidate.published, candidate.spooled)
    findings = judge_day(candidate.table, list_rules(known))
    groups = {group: [finding for finding in findings if finding.rule.group == group] for group in GROUPS}
    return [money, *(_outcome(group, found) for group, found in groups.items())]


def check_money(day: str, candidate: pa.Table, published: pa.Table, spooled: pa.Table) -> CheckOutcome:
    """One pass of SQL: the candidate holds exactly what it must, and its money is sound.

    The tables are in the lake's schema: `published` is what readers see now, `spooled` what the spool adds.
    """
    import pyarrow as pa

    from maestro_dagster.costs.duck import connect_memory

    floats = [name for name in MONEY if not pa.types.is_decimal(candidate.schema.field(name).type)]
    facts = [_fact("money is decimal, never a float", "none", ", ".join(floats) or "none")]
    span = _span(day)
    with connect_memory(threads="2") as connection:
        for name, table in (("candidate", candidate), ("published", published), ("spooled", spooled)):
            connection.register(name, table)
        cursor = connection.execute(_MONEY, span)
        names = [column[0] for column in cursor.description]
        found = dict(zip(names, cursor.fetchone() or (), strict=True))
        for name, what in (("rows", "rows"), ("usd", "USD"), ("unknown", "rows without a price")):
            fact = _fact(
                f"{what}: published and spooled, each event once",
                _amount(found[f"wanted_{name}"]),
                _amount(found[name]),
            )
            facts.append(fact)
        for name, rule in _RULES.items():
            which = ""
            if found[name]:
                query = f"SELECT event_id, run_id FROM candidate WHERE {_WHICH[name]} ORDER BY 1 LIMIT 3"  # noqa: S608
                rows = connection.execute(query, span if "$first" in query else {}).fetchall()
                which = ": " + ", ".join(f"event {event} of run {run}" for event, run in rows)
            facts.append(_fact(rule, "0", f"{found[name]}{which}"))
    return _sum_up("money", "error", facts)


def check_equality(
    lake: Lake, day: str, exports: Mapping[str, tuple[int, int]] | None = None
) -> CheckOutcome:
    """Raw = cubes = exports, difference exactly 0, for a published day.

    Raw is the day's usage and what retention has removed of it. A cube that was not built for the day is
    left out. `exports` are (rows, nano-USD) of the day by name.
    """
    manifest = lake.usage.manifest(day)
    if manifest is None:
        return CheckOutcome("equality", True, "error", (), f"no usage of {day} is published")
    rows = manifest.rows + manifest.retired["rows"]
    nano = manifest.sum_nano + manifest.retired["sum_nano"]
    unknown = manifest.unknown + manifest.retired["unknown"]
    raw = _triple(rows, nano, unknown)
    facts = [
        _fact("usage_daily: the file holds what its manifest says", _triple(*_measure_raw(lake, day)), raw)
    ]
    for name in CUBES:
        found = _measure_cube(lake, name, day)
        if found is not None:
            facts.append(_fact(f"{name} = usage", raw, _triple(*found)))
    for name, (export_rows, export_nano) in sorted((exports or {}).items()):
        expected = f"{manifest.rows} rows, {format_nano(manifest.sum_nano)} USD"
        found_text = f"{export_rows} rows, {format_nano(export_nano)} USD"
        facts.append(_fact(f"{name} = usage", expected, found_text))
    return _sum_up("equality", "error", facts)


def _measure_raw(lake: Lake, day: str) -> tuple[int, int, int]:
    manifest, file = lake.usage.manifest(day), lake.usage.read_day(day, columns=["cost_usd"])
    retired = manifest.retired if manifest else {"rows": 0, "sum_nano": 0, "unknown": 0}
    rows, usd, unknown = _query(
        "SELECT count(*), sum(cost_usd), count(*) FILTER (cost_usd IS NULL) FROM t", file
    )
    return rows + retired["rows"], _nano(usd) + retired["sum_nano"], unknown + retired["unknown"]


def _measure_cube(lake: Lake, name: str, day: str) -> tuple[int, int, int] | None:
    table = lake.table(name).read_day(day, columns=["events", "cost_usd", "unknown"])
    if table is None:
        return None
    events, usd, unknown = _query("SELECT sum(events), sum(cost_usd), sum(unknown) FROM t", table)
    return int(events or 0), _nano(usd), int(unknown or 0)


def _query(sql: str, table: pa.Table) -> tuple[Any, ...]:
    from maestro_dagster.costs.duck import connect_memory

    with connect_memory(threads="2") as connection:
        connection.register("t", table)
        return tuple(connection.execute(sql).fetchone() or ())


def _outcome(group: str, findings: Sequence[Finding]) -> CheckOutcome:
    facts = [
        {
            "rule": " ".join(
                filter(None, (str(one.rule.kwargs.get("column", "")), one.rule.type.removeprefix("expect_")))
            ),
            "expected": one.expected,
            "found": one.found,
            "passed": "yes" if one.passed else ("warning" if one.rule.severity == "warn" else "no"),
        }
        for one in findings
    ]
    broken = any(not one.passed and one.rule.severity == "error" for one in findings)
    warned = any(not one.passed for one in findings)
    return _sum_up(group, "error" if broken or not warned else "warn", facts)


def _sum_up(name: str, severity: Severity, facts: Sequence[Mapping[str, str]]) -> CheckOutcome:
    wrong = [fact for fact in facts if fact["passed"] != "yes"]
    if not wrong:
        return CheckOutcome(name, True, severity, tuple(facts), f"{len(facts)} rules hold")
    wrong.sort(key=lambda fact: fact["passed"] != "no")
    first = wrong[0]
    message = f"{first['rule']}: expected {first['expected'] or 'it to hold'}, found {first['found']}"
    if len(wrong) > 1:
        message += f"; and {len(wrong) - 1} more"
    return CheckOutcome(name, False, severity, tuple(facts), message)


def _fact(rule: str, expected: str, found: str) -> dict[str, str]:
    return {
        "rule": rule,
        "expected": expected,
        "found": found,
        "passed": "yes" if found == expected else "no",
    }


def _triple(rows: int, nano: int, unknown: int) -> str:
    return f"{rows} rows, {format_nano(nano)} USD, {unknown} without a price"


def _amount(value: Any) -> str:
    return format_nano(_nano(value)) if value is None or isinstance(value, Decimal | float) else str(value)


def _nano(usd: Any) -> int:
    """Exact: a sum of DECIMAL(18,9) may have 38 digits, more than the usual context keeps."""
    return 0 if usd is None else int(_WIDE.scaleb(Decimal(usd), 9))


def _span(day: str) -> dict[str, int]:
    """The day's first and last microsecond since the epoch."""
    first = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000
    return {"first": first, "last": first + 86_400_000_000 - 1}
