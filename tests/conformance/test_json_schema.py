"""The validator of kinds' configs keeps to JSON Schema 2020-12, and the committed schema to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from maestro_dagster.manifest.dialect import read_source
from maestro_dagster.manifest.document import plain
from maestro_dagster.manifest.lint_kind import open_validator
from maestro_dagster.manifest.read import lint_file, parse_text
from maestro_dagster.manifest.schema import SCHEMA_ID, flow_schema, schema_text

MANIFESTS = Path(__file__).parents[1] / "manifests"


@pytest.fixture(scope="session")
def validator() -> Draft202012Validator:
    return Draft202012Validator(flow_schema())


def test_the_validator_agrees_with_the_test_suite(corpus: Path) -> None:
    groups = json.loads((corpus / "11-json-schema" / "draft2020-12.json").read_text())["groups"]
    tests = 0
    for group in groups:
        check = open_validator(group["schema"]) if isinstance(group["schema"], dict) else None
        if check is None:
            continue
        for test in group["tests"]:
            assert check.is_valid(test["data"]) is test["valid"], (group["description"], test["description"])
            tests += 1
    assert tests > 300


def test_the_committed_schema_is_the_generated_one(repository: Path) -> None:
    path = repository / "schemas" / "flow.v1.schema.json"
    assert path.read_text(encoding="utf-8") == schema_text(), (
        "run `maestro schema > schemas/flow.v1.schema.json`"
    )


def test_the_schema_is_a_schema() -> None:
    schema = flow_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == SCHEMA_ID
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["version"]


def documents(folder: str) -> list[Path]:
    return sorted(path for path in (MANIFESTS / folder).iterdir() if path.suffix in (".yaml", ".json"))


@pytest.mark.parametrize("path", documents("valid"), ids=lambda path: path.name)
def test_valid_flows_fit_the_schema_once_they_are_canonical(
    path: Path, validator: Draft202012Validator
) -> None:
    source = read_source(parse_text(path.read_bytes().decode("utf-8-sig"), path.name))
    assert [error.message for error in validator.iter_errors(source.document)] == []


@pytest.mark.parametrize("path", documents("invalid"), ids=lambda path: path.name)
def test_what_the_model_refuses_the_schema_refuses(path: Path, validator: Draft202012Validator) -> None:
    found = {each.code for each in lint_file(path).diagnostics if each.severity == "error"}
    if not found & {"unknown-key", "missing-key", "bad-value", "wrong-type", "no-steps"}:
        pytest.skip("not a matter of the schema")
    document: Any = plain(parse_text(path.read_text(encoding="utf-8"), path.name))
    assert not validator.is_valid(document)
