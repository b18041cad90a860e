"""A backup that is made while pushes come in and runs are at work is a whole project."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import open_project
from maestro_dagster.project.services import open_engine

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
PUSHES = 200 if SOAK else 12
BACKUPS = 10 if SOAK else 2
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if SOAK else 240)]
_IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "gc.auto=0"]


def git(*arguments: str, where: Path) -> None:
    subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True)


def make_flow(witness: Path) -> dict[str, Any]:
    def task(step: str, *needs: str) -> dict[str, Any]:
        config = {"file": str(witness), "seconds": 0.1}
        return {"id": step, "uses": "pkg:test/witness@1.0.0", "with": config, "needs": list(needs)}

    tasks = [task("one"), task("two", "one"), task("three", "two")]
    return {"name": "kept", "version": "1.0.0", "on": [{"event": "push"}], "tasks": tasks}


@pytest.fixture
def lose_database(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """What of a project lies on servers is empty again: its database, its lake, its evidence."""

    def lose(root: Path) -> None:
        path = root / "pyproject.toml"
        text = path.read_text()
        for line in text.splitlines():
            if line.startswith("database = "):
                text = text.replace(line, f'database = "{request.getfixturevalue("new_database")()}"')
            elif line.startswith(("lake = ", "evidence = ")):
                text = text.replace(line, line[:-1] + '-restored"')
        path.write_text(text)

    return lose


def test_a_backup_under_load_restores_and_goes_on(yard: Any, lose_database: Any, tmp_path: Path) -> None:
    yard.write_flow(make_flow(tmp_path / "witness"))
    bare, work = tmp_path / "lib.git", tmp_path / "lib"
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare), where=tmp_path)
    git("init", "--quiet", "--initial-branch=main", str(work), where=tmp_path)
    git("remote", "add", "origin", str(bare), where=work)
    install_hook(bare, yard.project.inbox)
    yard.start()
    journal = yard.engine.services.journal
    target = str(tmp_path / "backups")
    reports = []
    for number in range(PUSHES):
        (work / "file").write_text(str(number))
        git("add", "file", where=work)
        git(*_IDENTITY, "commit", "--quiet", "--message", str(number), where=work)
        git("push", "--quiet", "origin", f"HEAD:refs/heads/topic-{number}", where=work)
        if (number + 1) % (PUSHES // BACKUPS) == 0:
            yard.wait_for(lambda: any(run.evidence_digest for run in journal.runs(PUSHES)), 60, "a run")
            reports.append(back_up(yard.project, target))
    assert [report.damaged for report in reports] == [()] * BACKUPS
    busy = [run for run in journal.runs(PUSHES) if run.evidence_digest is None]
    yard.stop(signal.SIGKILL)
    # The disk is lost, but for the keys; of all that was pushed, the last backup is what there is.
    lost = yard.project.home.rename(tmp_path / "lost")
    (yard.project.home).mkdir()
    (lost / "keys").rename(yard.project.keys)
    lose_database(yard.project.root)
    project = open_project(yard.project.root, {})
    done = restore(project, target)
    assert done.receipts == reports[-1].bundles > 0
    assert done.open_runs == reports[-1].runs - reports[-1].bundles
    assert busy, "the loop was idle: no load"
    engine = open_engine(project)
    try:
        known = {run.run_id: run for run in engine.services.journal.runs(PUSHES * 2)}
        public = (project.keys / "maestro.pub.pem").read_bytes()
        closed = [run for run in known.values() if run.evidence_digest is not None]
        assert len(closed) == done.receipts
        for run in closed:
            assert verify_bundle(engine.services.evidence.read(run.run_id), [public]).ok
        yard.start()
        yard.engine, before = engine, yard.engine
        for run_id in known:
            view = yard.wait_closed(run_id, 120)
            assert view.status == "succeeded"
            report = verify_bundle(engine.services.evidence.read(run_id), [public])
            assert (report.problems, report.claims) == ((), 3)
    finally:
        yard.engine = before if "before" in locals() else yard.engine
        engine.services.policy.close()
        engine.services.journal.close()
