"""A project with its engine, and flows written in a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.root import find_project
from maestro_dagster.project.runtime import open_runtime
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.translate.runtime import Runtime

TEMPLATE = "pkg:text/template@1.0.0"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    init_project(tmp_path / "shop")
    made = open_runtime(find_project(tmp_path / "shop"))
    yield made
    made.engine.services.policy.close()
    made.engine.services.journal.close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def text(step: str, template: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": step, "uses": TEMPLATE, "with": {"template": template}, "needs": list(needs), **more}


def broken(step: str, *needs: str) -> dict[str, Any]:
    """Fails on an input that is no JSON."""
    return {"id": step, "uses": "pkg:json/query@1.0.0", "needs": list(needs), "with": {"query": "a"}}


def flow(name: str, *tasks: dict[str, Any], **more: Any) -> Flow:
    return Flow.model_validate({"name": name, "version": "1.0.0", "tasks": tasks, **more})


@pytest.fixture
def make() -> dict[str, Callable[..., Any]]:
    return {"text": text, "broken": broken, "flow": flow}
