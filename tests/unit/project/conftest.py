"""A small project in a folder of its own, and one with something to back up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maestro_dagster.project.root import Project, open_project

FLOW = """\
name: {name}
version: 1.0.0
tasks:
  - id: one
    uses: pkg:text/template@1.0.0
    with: {{template: hello}}
"""


@pytest.fixture(autouse=True)
def _no_outside_project(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAESTRO_PROJECT", "MAESTRO_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "assets").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.maestro]\n')
    (folder / "assets" / "first.yaml").write_text(FLOW.format(name="first"))
    return folder


def run_flow(project: Project, run_id: str, *, close: bool = True) -> None:
    """The flow `hello`, as a worker does it, in this process."""
    from maestro_dagster.engine.engine import Engine
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.project.services import open_services
    from maestro_dagster.steps.catalogue import load_catalogue

    engine = Engine(open_services(project))
    try:
        flow = read_flow(project.find_flow("hello"), load_catalogue())
        engine.request(RunRequest(run_id, flow))
        engine.admit(run_id)
        list(engine.stream_segment(run_id, tuple(task.id for task in flow.tasks)))
        if close:
            engine.close(run_id)
    finally:
        engine.services.policy.close()
        engine.services.journal.close()


@pytest.fixture
def run_hello() -> Callable[..., None]:
    return run_flow


@pytest.fixture(scope="session")
def once_used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a project with two runs that ended. Nobody writes to it."""
    from maestro_dagster.project.scaffold import init_project

    root = tmp_path_factory.mktemp("used") / "shop"
    init_project(root)
    for run_id in ("r0", "r1"):
        run_flow(open_project(root, {}), run_id)
    return root


@pytest.fixture
def used(once_used: Path, tmp_path: Path) -> Project:
    """A copy of a project with the runs r0 and r1."""
    shutil.copytree(once_used, tmp_path / "shop", symlinks=True)
    return open_project(tmp_path / "shop", {})
