"""Fixtures that every layer of tests shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOAK = os.environ.get("MAESTRO_SOAK") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SOAK:
        return
    skip = pytest.mark.skip(reason="full counts run with `make soak` (MAESTRO_SOAK=1)")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of outside material; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MAESTRO_CORPUS", REPOSITORY.parent / "shared" / "corpus"))
    if not folder.is_dir():
        pytest.skip(f"no corpus: set MAESTRO_CORPUS to its folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository, which is its own first project."""
    return REPOSITORY


def count(reduced: int, full: int) -> int:
    """How many examples to run: `full` under MAESTRO_SOAK=1."""
    return full if SOAK else reduced
