"""A project of its own for each test, and `maestro dev` on it as a real process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.interface import RunView
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_engine

FOLDER = Path(__file__).parent
CLOSED = {"succeeded", "failed", "denied", "cancelled"}


def wait_for(found: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    pytest.fail(f"{what if isinstance(what, str) else what()}: not within {seconds:.0f} s")


@dataclass
class Yard:
    """A project, its engine in this process, and the loop in another."""

    project: Project
    engine: Engine
    environment: dict[str, str]
    loop: subprocess.Popen[bytes] | None = None
    arguments: list[str] = field(default_factory=lambda: ["dev", "--no-ui", "--no-daemon"])

    wait_for = staticmethod(wait_for)

    @property
    def log(self) -> Path:
        return self.project.home / "dev.log"

    def write_flow(self, flow: Flow | dict[str, Any]) -> None:
        form = flow.model_dump(mode="json", by_alias=True) if isinstance(flow, Flow) else flow
        path = self.project.root / "assets" / f"{form['name']}.json"
        path.write_text(json.dumps(form), encoding="utf-8")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.loop = subprocess.Popen(
                [sys.executable, str(FOLDER / "dev.py"), *self.arguments],
                cwd=self.project.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = self.project.home / "run" / "ready"

        def is_ready() -> bool:
            assert self.loop is not None
            assert self.loop.poll() is None, self.log.read_text()
            return ready.exists() and ready.read_text() == str(self.loop.pid)

        wait_for(is_ready, 60, "the loop")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends the loop by a signal; SIGKILL takes the fork server with it, not the workers."""
        if self.loop is None:
            return
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.loop.pid, signal.SIGKILL)
        else:
            self.loop.send_signal(number)
        self.loop.wait(90)
        self.loop = None

    def workers(self) -> list[int]:
        """Processes that run something: children of the fork server."""
        if self.loop is None:
            return []
        return [worker for server in _children(self.loop.pid) for worker in _children(server)]

    def wait_closed(self, run_id: str, seconds: float = 60) -> RunView:
        def closed() -> RunView | None:
            view = self.engine.view(run_id)
            return view if view.status in CLOSED and view.evidence else None

        view: RunView = wait_for(closed, seconds, lambda: f"the end of {run_id}; {self.log.read_text()}")
        return view


def add_setting(root: Path, name: str, value: str) -> None:
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    assert "[tool.maestro]\n" in text
    path.write_text(
        text.replace("[tool.maestro]\n", f'[tool.maestro]\n{name} = "{value}"\n'), encoding="utf-8"
    )


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


ON_POSTGRES = os.environ.get("MAESTRO_TEST_POSTGRES") == "1"  # the same tests, on the other database
ON_S3 = os.environ.get("MAESTRO_TEST_S3") == "1"  # and with artifacts, evidence and lake in a bucket


@pytest.fixture
def new_project(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Makes a project whose state lies where the environment of the tests wants it."""

    def make(root: Path) -> None:
        init_project(root)
        if ON_POSTGRES:
            add_setting(root, "database", request.getfixturevalue("new_database")())
        if ON_S3:
            bucket = request.getfixturevalue("s3_bucket")
            for name in ("artifact_store", "evidence", "lake"):
                add_setting(root, name, f"{bucket}/{name}")

    return make


@pytest.fixture
def yard(tmp_path: Path, new_project: Callable[[Path], None]) -> Iterator[Yard]:
    root = tmp_path / "shop"
    new_project(root)
    for path in (root / "assets").glob("*.yaml"):
        path.unlink()
    with open_yard(find_project(root)) as made:
        yield made


@pytest.fixture
def make_yard() -> Callable[[Project], contextlib.AbstractContextManager[Yard]]:
    """A yard on a project of one's own."""
    return open_yard


@contextlib.contextmanager
def open_yard(project: Project) -> Iterator[Yard]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAESTRO_", "DAGSTER_"))}
    made = Yard(project, open_engine(project), {**clean, "DAGSTER_DISABLE_TELEMETRY": "yes"})
    try:
        yield made
    finally:
        workers = made.workers()
        made.stop(signal.SIGKILL)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.engine.services.policy.close()
        made.engine.services.journal.close()
