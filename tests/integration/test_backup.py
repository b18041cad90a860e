"""A backup that is made while pushes come in and runs are at work is a whole project."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
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


def count_lines(witness: Path) -> Counter[tuple[str, str]]:
    """How often each step of each run came to its end."""
    return Counter((line.split()[0], line.split()[1]) for line in witness.read_text().splitlines())


@pytest.fixture
def lose_database(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Its database and its lake are empty again; the evidence in a bucket, which may be locked, survives."""

    def lose(root: Path) -> None:
        path = root / "pyproject.toml"
        text = path.read_text()
        for line in text.splitlines():
            if line.startswith("database = "):
                text = text.replace(line, f'database = "{request.getfixturevalue("new_database")()}"')
            elif line.startswith("lake = "):
                text = text.replace(line, line[:-1] + '-restored"')
        path.write_text(text)

    return lose


@pytest.fixture
def push(yard: Any, tmp_path: Path) -> Callable[[int], None]:
    """Pushes a branch of its own to a repository that the project knows."""
    bare, work = tmp_path / "lib.git", tmp_path / "lib"
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare), where=tmp_path)
    git("init", "--quiet", "--initial-branch=main", str(work), where=tmp_path)
    git("remote", "add", "origin", str(bare), where=work)
    install_hook(bare, yard.project.inbox)

    def push(number: int) -> None:
        (work / "file").write_text(str(number))
        git("add", "file", where=work)
        git(*_IDENTITY, "commit", "--quiet", "--message", str(number), where=work)
        git("push", "--quiet", "origin", f"HEAD:refs/heads/topic-{number}", where=work)

    return push


def lose_machine(yard: Any, aside: Path) -> None:
    """Every process is killed; the disk is lost, but for the keys."""
    workers = yard.workers()
    yard.stop(signal.SIGKILL)
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yard.project.home.rename(aside)
    yard.project.home.mkdir()
    (aside / "keys").rename(yard.project.keys)


def go_on_to_the_end(yard: Any, engine: Engine, public: bytes) -> None:
    """With the loop, on the restored project."""
    journal = engine.services.journal
    yard.start()
    yard.engine, before = engine, yard.engine
    try:
        yard.wait_for(lambda: len(journal.runs(PUSHES * 2)) == PUSHES, 120, "a run for each push")
        for run in journal.runs(PUSHES * 2):
            assert yard.wait_closed(run.run_id, 120 + 3 * PUSHES).status == "succeeded"
            report = verify_bundle(engine.services.evidence.read(run.run_id), [public])
            assert (report.problems, report.claims) == ((), 3)
        yard.wait_for(lambda: not journal.begun(), 60, "the end of each run in Dagster")
    finally:
        yard.engine = before


def test_a_backup_under_load_restores_and_goes_on(
    yard: Any, push: Callable[[int], None], lose_database: Any, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    yard.write_flow(make_flow(witness))
    yard.start()
    journal = yard.engine.services.journal
    target = str(tmp_path / "backups")
    reports = []

    def count_ended() -> int:
        return sum(run.evidence_digest is not None for run in journal.runs(PUSHES))

    for number in range(PUSHES):
        push(number)
        if (number + 1) % (PUSHES // BACKUPS) == 0:
            yard.wait_for(count_ended, 60, "a run")
            reports.append(back_up(yard.project, target))
    assert [report.damaged for report in reports] == [()] * BACKUPS
    assert count_ended() < PUSHES, "the loop was idle: no load"
    yard.wait_for(lambda: count_ended() > reports[-1].bundles, 60, "a run that ends after the backup")
    lose_machine(yard, tmp_path / "lost")
    proven = set(yard.engine.services.evidence.runs())
    did = count_lines(witness)
    # Of all that was pushed, the last backup is what there is, and evidence in a bucket.
    lose_database(yard.project.root)
    project = open_project(yard.project.root, {})
    done = restore(project, target)
    assert done.receipts == reports[-1].bundles > 0
    engine = open_engine(project)
    try:
        known = engine.services.journal.runs(PUSHES * 2)
        public = (project.keys / "maestro.pub.pem").read_bytes()
        closed = {run.run_id for run in known if run.evidence_digest is not None}
        assert (len(closed), len(known)) == (done.receipts + len(done.adopted), len(closed) + done.open_runs)
        assert closed == (closed - set(done.adopted) if project.evidence_url is None else proven)
        assert bool(done.adopted) == (project.evidence_url is not None)
        for run_id in closed:
            assert verify_bundle(engine.services.evidence.read(run_id), [public]).ok
        go_on_to_the_end(yard, engine, public)
    finally:
        engine.services.policy.close()
        engine.services.journal.close()
    twice = [step for step, count in count_lines(witness).items() if count != did[step] and step[0] in closed]
    assert not twice
