"""The sample flows of the documents that the product was asked for in, read from where they lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from maestro_dagster.manifest.diagnostic import has_errors
from maestro_dagster.manifest.normal import flow_digest
from maestro_dagster.manifest.read import ReadResult, read_flow_text
from maestro_dagster.manifest.write import write_flow
from maestro_dagster.steps.catalogue import load_catalogue


@pytest.fixture
def seeds(corpus: Path) -> Path:
    folder = Path(os.environ.get("MAESTRO_SEEDS", corpus.parent / "seeds"))
    if not folder.is_dir():
        pytest.skip(f"no seeds: set MAESTRO_SEEDS to their folder (looked at {folder})")
    return folder


def sample(seeds: Path, number: str, start: str) -> str:
    """The fenced block that begins with `start` in one of the documents."""
    text = next(seeds.glob(f"{number}_*")).read_text(encoding="utf-8")
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        if block.startswith(start):
            return str(block)
    pytest.fail(f"no block beginning with {start!r} in document {number}")


def lint(text: str, name: str) -> ReadResult:
    return read_flow_text(text.encode(), name, load_catalogue())


def test_the_flow_of_nodes_and_edges_is_clean(seeds: Path) -> None:
    result = lint(sample(seeds, "000", '{\n  "id": "daily-brief"'), "flow.json")
    assert result.diagnostics == ()
    assert result.flow is not None
    assert [task.uses for task in result.flow.tasks] == [
        "pkg:http/get@1.0.0", "pkg:feed/parse@1.0.0", "pkg:llm/generate@1.0.0",
    ]  # fmt: skip
    assert result.flow.tasks[2].with_ == {"route": {"max_p95_ms": 700, "minimise": "cost"}}
    for dialect in ("tasks", "steps", "nodes"):
        again = lint(write_flow(result.flow, dialect), "flow.json" if dialect == "nodes" else "flow.yaml")
        assert again.flow is not None
        assert flow_digest(again.flow) == flow_digest(result.flow)


def test_the_pipeline_does_not_parse_and_the_finding_says_what_to_write(seeds: Path) -> None:
    text = sample(seeds, "001", "name: intelgraph-build")
    (found,) = lint(text, "flow.yaml").diagnostics
    assert found.code == "yaml-expression-unquoted"
    assert found.remedy == 'Put it in quotes: "${{ params.env }}".'
    line = text.splitlines()[found.line - 1]
    assert line[found.column - 1 :].startswith("${{ params.env }}")


def test_the_mended_pipeline_says_which_kinds_are_missing_and_nothing_else(seeds: Path) -> None:
    text = sample(seeds, "001", "name: intelgraph-build").replace("${{ params.env }}", '"${{ params.env }}"')
    result = lint(text, "flow.yaml")
    missing = {"web/scrape", "build/container", "registry/push", "cd/rollout"}
    errors = [each for each in result.diagnostics if each.severity == "error"]
    assert all(each.code == "kind-unknown" for each in errors), errors
    assert {name for name in missing if any(name in each.message for each in errors)} == missing or len(
        errors
    ) < 4
    bare = read_flow_text(text.encode(), "flow.yaml")
    assert not has_errors(bare.diagnostics)
    assert bare.flow is not None
    needs = {task.id: task.needs for task in bare.flow.tasks}
    assert needs["plan"] == ()
    assert needs["gen"] == ("scrape-docs", "plan")
    assert needs["deploy"] == ("publish",)


def test_the_workflow_of_tasks_is_clean(seeds: Path) -> None:
    text = next(seeds.glob("003_*")).read_text(encoding="utf-8")
    start = text.index("name: sample-workflow")
    result = lint(text[start : text.index("```", start)], "workflow.yaml")
    assert result.diagnostics == ()
    assert result.flow is not None
    assert result.flow.region == "US"
