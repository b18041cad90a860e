"""A real cage, and a way to run a piece of Python in it."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.sandbox.cage import LinuxCage, open_cage
from maestro_dagster.sandbox.interface import CagedCommand, CagedResult

RunPython = Callable[..., Awaitable[CagedResult]]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's state folder with things worth stealing."""
    folder = tmp_path_factory.mktemp("project") / ".maestro"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "maestro.pem").write_text("THE-PRIVATE-KEY")
    (folder / "journal.sqlite").write_text("THE-JOURNAL")
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "object").write_text("THE-STORE")
    for path in (folder.parent, *folder.parent.rglob("*")):
        path.chmod(0o777)  # so that nothing but the cage stands in the way
    return folder


@pytest.fixture(scope="session")
def cage(home: Path) -> LinuxCage:
    cage = open_cage(hidden=[home])
    refusal = cage.refusal()
    if refusal:
        pytest.skip(f"this kernel builds no cage: {refusal}")
    return cage


@pytest.fixture
def run_python(cage: LinuxCage) -> RunPython:
    async def run(code: str, **options: Any) -> CagedResult:
        argv = ("python3", "-I", "-c", textwrap.dedent(code), *options.pop("arguments", ()))
        return await cage.run(CagedCommand(argv=argv, **{"time_limit": 30.0, **options}))

    return run
