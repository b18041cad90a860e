"""Cost data that others wrote in FOCUS: sums exact to the last digit, columns as the specification says."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.costs.focus import COLUMNS, focus_schema
from maestro_dagster.costs.focus_file import read_focus, sum_focus
from maestro_dagster.errors import CostError

_NULLS = ("", "NULL", "null")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")  # NumericFormat of the specification


def _folder(corpus: Path) -> Path:
    folder = corpus / "09-focus"
    if not folder.is_dir():
        pytest.skip("no FOCUS data in the corpus")
    return folder


def _expected(corpus: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_folder(corpus) / "focus_sample.expected.json").read_text())
    return found


def test_the_sample_loads_with_exact_sums(corpus: Path) -> None:
    expected = _expected(corpus)
    table = read_focus(_folder(corpus) / "focus_sample.csv")
    assert (table.num_rows, table.column_names) == (expected["rows"], expected["columns"])
    assert {name: table[name].null_count for name in table.column_names} == expected["null_counts"]
    metrics = ("BilledCost", "EffectiveCost", "ListCost")
    assert len(expected["sums"]) > 10
    for line in expected["sums"]:
        columns = ("ProviderName", "ServiceCategory")[: len(line["group"])]
        group = {} if line["group"] == ["*"] else dict(zip(columns, line["group"], strict=True))
        rows, sums = sum_focus(table, metrics, group)
        assert rows == line["rows"], group
        assert sums == {name: Decimal(line[name]) for name in metrics}, group


def test_scenarios_of_the_specification_load_with_exact_sums_or_are_refused_for_their_numbers(
    corpus: Path,
) -> None:
    verdicts: Counter[str] = Counter()
    for path in sorted((_folder(corpus) / "scenarios").glob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if any(row.values())]
        plain = all(
            value in _NULLS or _NUMBER.fullmatch(value.strip())
            for row in rows
            for name, value in row.items()
            if name and name.endswith(("Cost", "Quantity", "UnitPrice"))
        )
        if not plain:
            with pytest.raises(CostError) as refused:
                read_focus(path)
            assert "is no decimal" in refused.value.fact, path.name
            verdicts["refused"] += 1
            continue
        table = read_focus(path)
        assert sum(1 for cost in table["BilledCost"] if cost.is_valid) == len(rows), path.name
        for name in ("BilledCost", "EffectiveCost"):
            amounts = [Decimal(row[name].strip()) for row in rows if row[name] not in _NULLS]
            assert sum_focus(table, (name,), {})[1] == {name: sum(amounts, Decimal(0))}, path.name
        verdicts["loaded"] += 1
    assert verdicts["loaded"] > 10


def test_our_columns_keep_the_rules_of_the_specification(corpus: Path) -> None:
    import pyarrow as pa

    document = json.loads((_folder(corpus) / "focus_columns_1.2.json").read_text())
    rules = {rule["column"]: rule for rule in document["columns"]}
    ours = focus_schema()
    assert {name for name in COLUMNS if not name.startswith("x_")} <= set(rules)
    levels = Counter(rule["feature_level"] for name, rule in rules.items() if name in COLUMNS)
    mandatory = {name for name, rule in rules.items() if rule["feature_level"] == "Mandatory"}
    assert mandatory <= set(COLUMNS)
    assert levels["Mandatory"] == len(mandatory) > 15
    tests = {"Decimal": pa.types.is_decimal, "Date/Time": pa.types.is_timestamp}
    for item in ours:
        if item.name in rules:
            wanted = tests.get(rules[item.name]["data_type"], pa.types.is_string)
            assert wanted(item.type), item.name


def test_our_rows_keep_null_and_value_rules(corpus: Path, tmp_path: Path, repository: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("focus_check", repository / "tests" / "focus" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    path, statement = check.export_day(tmp_path, "focus", 2000)
    table = read_focus(path)
    assert table.num_rows == statement.rows
    document = json.loads((_folder(corpus) / "focus_columns_1.2.json").read_text())
    for rule in document["columns"]:
        if rule["column"] in table.column_names:
            column = table[rule["column"]]
            if rule["allows_nulls"] == "False":
                assert column.null_count == 0, rule["column"]
            # Of subcategories the list has only the categories that they belong to.
            if rule["allowed_values"] and rule["column"] != "ServiceSubcategory":
                assert set(column.drop_null().to_pylist()) <= set(rule["allowed_values"]), rule["column"]
    assert set(table["ChargeCategory"].to_pylist()) == {"Usage", "Credit"}


def test_what_is_no_focus_is_refused(tmp_path: Path) -> None:
    for text in ("", "a,b\n1,2\n", "BilledCost,BillingCurrency\nmuch,USD\n", "BilledCost\n1e999\n"):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(CostError) as refused:
            read_focus(tmp_path / "x.csv")
        assert refused.value.error_code == "focus-unreadable"
