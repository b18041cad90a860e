"""Seconds from `git push` to the first step, on the same small flow and repository.

Ours: the hook, the inbox and the loop of `maestro dev`. Theirs: the stock daemon with
a sensor that runs `git ls-remote` as often as the daemon ticks, and the default launcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FLOW = """\
name: push-bench
version: 1.0.0
on: [push]
tasks:
  - id: hello
    uses: pkg:text/template@1.0.0
    with: {template: hello}
"""

STOCK = """\
import subprocess
import dagster as dg

@dg.asset
def hello():
    return "hello"

job = dg.define_asset_job("push_bench", [hello])

@dg.sensor(job=job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def git_push(context):
    tip = subprocess.check_output(["git", "ls-remote", REPOSITORY, "refs/heads/main"], text=True).split()[:1]
    if tip and tip[0] != context.cursor:
        context.update_cursor(tip[0])
        yield dg.RunRequest(run_key=tip[0])

defs = dg.Definitions(assets=[hello], jobs=[job], sensors=[git_push])
"""


def maestro(folder: Path) -> dict[str, float]:
    cli = [str(Path(sys.executable).parent / "maestro")]
    project = folder / "shop"
    _call([*cli, "init", str(project)])
    for path in (project / "assets").rglob("*.yaml"):
        path.unlink()
    (project / "assets" / "push-bench.yaml").write_text(FLOW, encoding="utf-8")
    bare, work = _repository(folder)
    _call([*cli, "hook", "install", str(bare)], cwd=project)
    with _process([*cli, "dev", "--no-ui", "--no-daemon"], project, folder / "dev.log"):
        _wait((project / ".maestro" / "run" / "ready").exists, 60)
        pushed = _push(work)
        return {"value": _wait(lambda: _first_step(project), 60) - pushed}


def _first_step(project: Path) -> float | None:
    """When the first attempt began, as the journal wrote it; seconds since the epoch."""
    database = project / ".maestro" / "journal.sqlite"
    if not database.exists():
        return None
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT min(started_at) FROM attempt").fetchone()
    return float(row[0]) if row and row[0] else None


def stock_sensor(folder: Path) -> dict[str, float]:
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    bare, work = _repository(folder)
    (folder / "defs.py").write_text(f"REPOSITORY = {str(bare)!r}\n{STOCK}", encoding="utf-8")
    daemon = [sys.executable, "-m", "dagster._daemon", "run", "-f", "defs.py"]
    import dagster as dg

    # Opened before the daemon: two processes that create one SQLite storage at once break each other.
    with dg.DagsterInstance.get() as instance, _process(daemon, folder, folder / "daemon.log"):
        _wait(lambda: _ticked(instance), 120)
        pushed = _push(work)
        return {"value": _wait(lambda: _step_start(instance), 120) - pushed}


def _ticked(instance: object) -> bool:
    """Has the sensor been evaluated once? Measuring from before would charge the daemon's start."""
    return bool(instance.all_instigator_state())  # type: ignore[attr-defined]


def _step_start(instance: object) -> float | None:
    import dagster as dg

    for run in instance.get_runs(limit=1):  # type: ignore[attr-defined]
        for record in instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.STEP_START
        ).records:  # type: ignore[attr-defined]
            return float(record.event_log_entry.timestamp)
    return None


def _repository(folder: Path) -> tuple[Path, Path]:
    bare, work = folder / "origin.git", folder / "work"
    _call(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)])
    _call(["git", "init", "--quiet", "--initial-branch=main", str(work)])
    _call(["git", "remote", "add", "origin", str(bare)], cwd=work)
    return bare, work


def _push(work: Path) -> float:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    (work / "a.txt").write_text("a", encoding="utf-8")
    _call(["git", "add", "a.txt"], cwd=work)
    _call(["git", *identity, "commit", "--quiet", "-m", "one"], cwd=work)
    started = time.time()
    _call(["git", "push", "--quiet", "origin", "main"], cwd=work)
    return started


def _call(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        sys.exit(f"{json.dumps(command)} failed: {done.stdout}{done.stderr}")


def _wait(found: object, seconds: float) -> float:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()  # type: ignore[operator]
        if value:
            return float(value)
        time.sleep(0.02)
    sys.exit(f"nothing happened within {seconds:.0f} s")


@contextlib.contextmanager
def _process(command: list[str], cwd: Path, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
