"""Fixtures of the engine's tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.database.interface import Database
from maestro_dagster.database.owner import Owner
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.interface import RunView, StepOutcome
from maestro_dagster.engine.journal import Journal
from maestro_dagster.engine.schema import open_file, open_server
from maestro_dagster.manifest.model import Flow

NAME = "engine_support"


def _load() -> ModuleType:
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("support.py"))
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def support() -> ModuleType:
    return _load()


@pytest.fixture
def journal_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite`, or what a test file asks for by `parametrize("journal_kind", [...], indirect=True)`."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def open_store(
    journal_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Database]]:
    """Opens the same empty journal again and again."""
    opened: list[Database] = []
    if journal_kind == "postgres":
        url = request.getfixturevalue("journal_server")

    def open_one(home: Path = tmp_path) -> Database:
        found = (
            open_server(url, Owner("t/p"))
            if journal_kind == "postgres"
            else open_file(home / "journal.sqlite")
        )
        opened.append(found)
        return found

    if journal_kind == "postgres":
        with open_one().write() as connection:
            connection.execute("TRUNCATE flow, run, step, attempt, rate, lease")
    yield open_one
    for database in opened:
        database.close()


@pytest.fixture(scope="session")
def journal_server(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def open_engine(
    tmp_path: Path, support: ModuleType, journal_kind: str, open_store: Callable[..., Database]
) -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def open_one(home: Path = tmp_path, **changes: Any) -> Engine:
        if journal_kind == "postgres":
            changes.setdefault("journal", Journal(open_store()))
        engine: Engine = support.make_engine(home, **changes)
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        engine.services.journal.close()


@pytest.fixture
def engine(open_engine: Callable[..., Engine]) -> Engine:
    return open_engine()


@pytest.fixture
def perform(engine: Engine, support: ModuleType) -> Callable[..., tuple[list[StepOutcome], RunView]]:
    """Runs a flow to its end: (outcomes in the order in which they came, the closed run)."""

    def run(flow: Flow, run_id: str = "r1", **fields: Any) -> tuple[list[StepOutcome], RunView]:
        assert engine.request(support.make_request(run_id, flow, **fields))
        assert engine.admit(run_id).allow
        outcomes = list(engine.stream_segment(run_id, support.all_steps(flow)))
        engine.close(run_id)
        return outcomes, engine.view(run_id)

    return run
