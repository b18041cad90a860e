"""What a day of usage must look like: one list of expectations, judged by Great Expectations.

Money is added up by SQL (`costs.check`); here are shape, ranges, references and volume. The operator adds
to the list in `resources/expectations.yaml`:

    tenants: [acme]                  # may appear although no published day has them
    most_usd_per_event: "1000"
    volume: {block_factor: 10}       # rows beyond this multiple of what was forecast stop the day
    expectations:                    # as Great Expectations spells them; money columns are nano-USD
      - type: expect_column_distinct_values_to_be_in_set
        kwargs: {column: env, value_set: [dev, prod]}
        severity: warning

A column is checked by what is computed of it as a whole (least, most, distinct values): of a million rows
that takes a second or two, row by row it takes minutes.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from maestro_dagster.costs.retention import TIER_DAYS
from maestro_dagster.costs.schema import COLUMNS, COUNTS, MONEY
from maestro_dagster.errors import CostError, ManifestError
from maestro_dagster.manifest.money import NANO, parse_usd

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Severity = Literal["error", "warn"]
GROUPS: Final = ("schema", "ranges", "references", "volume", "project_expectations")
KINDS: Final = ("llm", "compute", "memory", "network", "storage")
MOST_NANO: Final = 10_000 * NANO  # of one event
BLOCK_FACTOR: Final = 10
_SHOWN: Final = 5  # values of what was found
_SHOWN_LETTERS: Final = 80
_TYPES: Final = {  # what a column of the frame holds, as Great Expectations names it
    **dict.fromkeys(COLUMNS, "CategoricalDtypeType"),
    **dict.fromkeys((*COUNTS, *MONEY), "int64"),
    "event_id": "str",
    "iteration": "int32",
    "attempt": "int32",
    "estimated": "bool",
    "occurred_at": "Timestamp",
}


@dataclass(frozen=True, slots=True)
class ProjectRules:
    """`resources/expectations.yaml`, read."""

    tenants: tuple[str, ...] = ()
    most_nano: int = MOST_NANO
    block_factor: int = BLOCK_FACTOR
    expectations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What a day may refer to. None: nobody knows, so it is not checked.

    `rows` is the interval that the forecast expects, (least, most); a day that is not over may have fewer.
    """

    tenants: Collection[str] | None = None
    flows: Collection[str] | None = None
    runs: Collection[str] | None = None
    rows: tuple[int, int] | None = None
    rules: ProjectRules = field(default_factory=ProjectRules)


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation: its group, type and arguments as Great Expectations takes them."""

    group: str
    type: str
    kwargs: Mapping[str, Any]
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a rule. `expected` and `found` are short texts for a table."""

    rule: Rule
    passed: bool
    expected: str
    found: str


def list_rules(known: Known) -> list[Rule]:
    """Every expectation that holds for a day."""
    return [*_shape(), *_ranges(known), *_references(known), *_volume(known), *_project(known.rules)]


def _shape() -> Iterator[Rule]:
    yield Rule("schema", "expect_table_columns_to_match_ordered_list", {"column_list": list(COLUMNS)})
    for column, kind in _TYPES.items():
        yield Rule("schema", "expect_column_values_to_be_of_type", {"column": column, "type_": kind})


def _ranges(known: Known) -> Iterator[Rule]:
    low, high = "expect_column_min_to_be_between", "expect_column_max_to_be_between"
    for column in COUNTS:
        yield Rule("ranges", low, {"column": column, "min_value": 0})
    yield Rule("ranges", low, {"column": "attempt", "min_value": 1})
    yield Rule("ranges", low, {"column": "iteration", "min_value": -1})
    most = known.rules.most_nano
    yield Rule("ranges", low, {"column": "cost_usd", "min_value": -most})
    yield Rule("ranges", high, {"column": "cost_usd", "max_value": most})


def _references(known: Known) -> Iterator[Rule]:
    within = "expect_column_distinct_values_to_be_in_set"
    fixed = {
        "kind": KINDS,
        "phase": ("intent", "settled"),
        "outcome": ("ok", "failed", "cancelled"),
        "retention_tier": tuple(TIER_DAYS),
    }
    for column, values in fixed.items():
        yield Rule("references", within, {"column": column, "value_set": list(values)})
    if known.tenants is not None:
        tenants = sorted({*known.tenants, *known.rules.tenants})
        yield Rule("references", within, {"column": "tenant", "value_set": tenants})
    # A run may be older than the journal, or another machine's: that is worth a word, not a stop.
    for column, names in (("flow", known.flows), ("run_id", known.runs)):
        if names is not None:
            yield Rule("references", within, {"column": column, "value_set": sorted(names)}, "warn")


def _volume(known: Known) -> Iterator[Rule]:
    if known.rows is None:
        return
    least, most = known.rows
    count = "expect_table_row_count_to_be_between"
    yield Rule("volume", count, {"min_value": least, "max_value": most}, "warn")
    yield Rule("volume", count, {"min_value": 0, "max_value": max(most, 1) * known.rules.block_factor})


def _project(rules: ProjectRules) -> Iterator[Rule]:
    for one in rules.expectations:
        yield Rule("project_expectations", one["type"], dict(one["kwargs"]), one["severity"])


def judge_day(table: pa.Table, rules: Sequence[Rule]) -> list[Finding]:
    """Judges a day (a table in the lake's schema) by the rules, in their order.

    A rule that cannot be computed has not passed. Raises CostError (`expectation-invalid`) for one of the
    project's own that Great Expectations does not know or cannot compute.
    """
    frame = pandas_of(table)
    with _quiet():
        import great_expectations as gx
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.expectations.metadata_types import FailureSeverity

        made = []
        for number, rule in enumerate(rules):
            level = FailureSeverity.WARNING if rule.severity == "warn" else FailureSeverity.CRITICAL
            try:
                configuration = ExpectationConfiguration(
                    type=rule.type, kwargs=dict(rule.kwargs), severity=level, meta={"rule": number}
                )
                made.append(configuration.to_domain_obj())
            except Exception as error:  # of two hierarchies, neither of them public
                raise _invalid(rule, str(error)) from error
        batch = _open_batch(gx, frame)
        suite = gx.ExpectationSuite(name="usage_daily", expectations=made)
        results = batch.validate(suite, result_format="SUMMARY").results
    judged = {result.expectation_config.meta["rule"]: result for result in results}
    return [_find(rule, judged[number]) for number, rule in enumerate(rules)]


def pandas_of(table: pa.Table) -> pd.DataFrame:
    """The day as pandas, exact: money as whole nano-USD (Int64), names as categories.

    pandas has no decimal of its own and would make floats; a column that is no decimal stays what it is,
    and the rules of the schema say so.
    """
    from decimal import Decimal

    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_decimal(column.type):
            nano = pc.multiply(column, pa.scalar(Decimal(NANO), pa.decimal128(10, 0)))
            column = nano.cast(pa.decimal128(38, 0)).cast(pa.int64())
        elif pa.types.is_string(column.type) and name != "event_id":
            column = column.dictionary_encode()
        columns[name] = column
    exact = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    frame: pd.DataFrame = pa.table(columns).to_pandas(types_mapper=exact.get)
    return frame


def forecast_rows(history: Sequence[tuple[str, int]], day: str, *, over: bool) -> tuple[int, int] | None:
    """How many rows the day should have, (least, most), from (day, rows) of days before it.

    None where there is too little history. A day that is not `over` may still have fewer.
    """
    from datetime import date

    from maestro_dagster.costs.forecast import LEAST_HISTORY, MOST_DAYS, fill_days, forecast_costs

    before = {name: rows for name, rows in history if name < day}
    if not before:
        return None
    filled = fill_days(before, min(before), max(before))
    ahead = (date.fromisoformat(day) - date.fromisoformat(filled[-1][0])).days
    if len(filled) < LEAST_HISTORY or ahead > MOST_DAYS:
        return None
    found = forecast_costs(filled, ahead, level=0.99)
    if not found.days:
        return None
    last = found.days[-1]
    return (last.low_nano if over else 0), last.high_nano


def load_project_rules(path: Path) -> ProjectRules:
    """The operator's file; defaults where there is none. Raises CostError (`expectations-invalid`)."""
    from maestro_dagster.manifest.plain_yaml import load_plain_yaml

    try:
        value = load_plain_yaml(path.read_bytes())
        return _read_rules(value if value is not None else {})
    except FileNotFoundError:
        return ProjectRules()
    except (OSError, ValueError, ManifestError) as error:
        raise CostError(
            f"the expectations of the project cannot be read: {error}",
            place=str(path),
            remedy="see the comments in the file; docs/how-to/check-usage.md has an example",
            code="expectations-invalid",
        ) from error


def _read_rules(value: Any) -> ProjectRules:
    if not isinstance(value, dict):
        raise ValueError("it is no mapping")  # noqa: TRY004 - caught above, with the file's name
    names = {"tenants", "most_usd_per_event", "volume", "expectations"}
    if unknown := sorted(set(value) - names):
        raise ValueError(f"there is no key {unknown[0]!r}; there are {', '.join(sorted(names))}")
    tenants = value.get("tenants") or []
    volume = value.get("volume") or {}
    added = value.get("expectations") or []
    if not isinstance(tenants, list) or not all(isinstance(name, str) for name in tenants):
        raise ValueError("`tenants` is no list of names")
    if not isinstance(volume, dict) or set(volume) - {"block_factor"}:
        raise ValueError("`volume` takes `block_factor` only")
    factor = volume.get("block_factor", BLOCK_FACTOR)
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise ValueError("`block_factor` is no whole number above 0")
    if not isinstance(added, list):
        raise ValueError("`expectations` is no list")  # noqa: TRY004 - as above
    most = value.get("most_usd_per_event")
    nano = MOST_NANO if most is None else parse_usd(str(most))
    return ProjectRules(tuple(tenants), nano, factor, tuple(_read_expectation(one) for one in added))


def _read_expectation(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) - {"type", "kwargs", "severity"}:
        raise ValueError("an expectation has `type`, `kwargs` and `severity`")
    kind, kwargs = value.get("type"), value.get("kwargs", {})
    if not isinstance(kind, str) or not re.fullmatch(r"expect_[a-z_]+", kind):
        raise ValueError(f"{kind!r} is no expectation; Great Expectations spells them expect_...")
    if not isinstance(kwargs, dict):
        raise ValueError(f"`kwargs` of {kind} is no mapping")  # noqa: TRY004 - as above
    severity = {"critical": "error", "warning": "warn"}.get(value.get("severity", "critical"))
    if severity is None:
        raise ValueError(f"the severity of {kind} is neither critical nor warning")
    return {"type": kind, "kwargs": kwargs, "severity": severity}


def _open_batch(gx: Any, frame: pd.DataFrame) -> Any:
    """The frame as a batch of a context in memory: it writes no file and tells nobody."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset("usage_daily")
    definition = asset.add_batch_definition_whole_dataframe("day")
    return definition.get_batch({"dataframe": frame})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its import and its metrics warn of what only its authors can change, and tqdm would start a thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm import tqdm

        tqdm.monitor_interval = 0
        yield


def _find(rule: Rule, result: Any) -> Finding:
    raised = result.exception_info or {}
    if raised.get("raised_exception") is not False:
        # One exception, or one for each metric that could not be computed.
        first = raised if "exception_message" in raised else next(iter(raised.values()), {})
        why = str(first.get("exception_message", "it could not be computed"))
        if rule.group == "project_expectations":
            raise _invalid(rule, why)
        return Finding(rule, False, _expected(rule), _text(" ".join(why.split())))
    found = result.result or {}
    wrong = found.get("partial_unexpected_list")
    if not wrong:
        return Finding(rule, bool(result.success), _expected(rule), _text(found.get("observed_value")))
    count = found.get("unexpected_count", len(wrong))
    more = f", ... ({count})" if count > _SHOWN else ""
    return Finding(rule, bool(result.success), _expected(rule), _text(wrong[:_SHOWN]) + more)


def _expected(rule: Rule) -> str:
    kwargs = {name: value for name, value in rule.kwargs.items() if name != "column"}
    return "; ".join(f"{name}: {_text(value)}" for name, value in kwargs.items())


def _text(value: Any) -> str:
    """Short and printable: values come from events, and this goes to a page."""
    if isinstance(value, list | tuple):
        shown = ", ".join(_text(one) for one in value[:_SHOWN])
        return f"{shown}, ... ({len(value)})" if len(value) > _SHOWN else shown
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_SHOWN_LETTERS]


def _invalid(rule: Rule, why: str) -> CostError:
    column = rule.kwargs.get("column", "the table")
    return CostError(
        f"the expectation {rule.type} on {column} cannot be checked: {' '.join(why.split())[:200]}",
        place="resources/expectations.yaml" if rule.group == "project_expectations" else "",
        remedy="correct its type and kwargs, or remove it",
        code="expectation-invalid",
    )
