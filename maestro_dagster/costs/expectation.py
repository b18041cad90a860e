"""What a day of usage must look like: one list of expectations, judged by Great Expectations.

Money is added up by SQL (`costs.check`); here are shape, ranges, references and volume, and what the
operator adds in `resources/expectations.yaml` (`costs.known`).

A column is checked by what is computed of it as a whole (least, most, distinct values): of a million rows
that takes a second or two, row by row it takes minutes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.known import Known, ProjectRules, Severity
from maestro_dagster.costs.retention import TIER_DAYS
from maestro_dagster.costs.schema import COLUMNS, COUNTS, MONEY
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

GROUPS: Final = ("schema", "ranges", "references", "volume", "project_expectations")
KINDS: Final = ("llm", "compute", "memory", "network", "storage")
_BOUNDS: Final = ("expect_column_min_to_be_between", "expect_column_max_to_be_between")
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
    low, high = _BOUNDS
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
            yield Rule("references", within, {"column": column, "value_set": sorted(names) or [""]}, "warn")


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
    without = {number for number, rule in enumerate(rules) if _has_nothing(frame, rule)}
    with _quiet():
        import great_expectations as gx
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.expectations.metadata_types import FailureSeverity

        made = []
        for number, rule in enumerate(rules):
            if number in without:
                continue
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
    return [
        Finding(rule, True, _expected(rule), "no value") if number in without else _find(rule, judged[number])
        for number, rule in enumerate(rules)
    ]


def pandas_of(table: pa.Table) -> pd.DataFrame:
    """The day as pandas, exact: money as whole nano-USD (Int64), names as categories.

    pandas has no decimal of its own and would make floats; money of another type stays what it is, and the
    rules of the schema say so.
    """
    import pandas as pd
    import pyarrow as pa

    from maestro_dagster.costs.frame import nano_of

    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if column.type == pa.decimal128(18, 9):
            column = nano_of(column)
        elif pa.types.is_string(column.type) and name != "event_id":
            column = column.dictionary_encode()
        columns[name] = column
    exact = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    frame: pd.DataFrame = pa.table(columns).to_pandas(types_mapper=exact.get)
    return frame


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
    """Its import and its metrics warn of what only its authors can change, and tqdm would start a thread.

    A third of the time would go into a fingerprint of the data that nobody reads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from great_expectations.execution_engine import pandas_execution_engine
        from tqdm import tqdm

        tqdm.monitor_interval = 0
        pandas_execution_engine.HASH_THRESHOLD = 0  # bytes; a frame that is larger gets none
        yield


def _has_nothing(frame: pd.DataFrame, rule: Rule) -> bool:
    """Nothing is within every bound; Great Expectations finds that the least of nothing is no number."""
    column = rule.kwargs.get("column")
    return rule.type in _BOUNDS and column in frame.columns and not bool(frame[column].notna().any())


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
