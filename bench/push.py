"""Seconds from `git push` to the first step, on the same small flow and repository.

Ours: the hook or a forge's delivery, the inbox and the loop of `maestro dev`, from which a worker is forked;
`hop ...` is how long each part took. Theirs: the stock daemon with
a sensor that runs `git ls-remote` as often as the daemon ticks, and the default launcher.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http
import http.client
import json
import os
import signal
import socket
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
    """A push into a repository with our hook."""
    project, cli = _project(folder)
    bare, work = _repository(folder)
    _call([*cli, "hook", "install", str(bare)], cwd=project)
    with _process([*cli, "dev", "--no-ui", "--no-daemon"], project, folder / "dev.log"):
        _wait((project / ".maestro" / "run" / "ready").exists, 60)
        return _hops(project, _push(work))


def webhook(folder: Path) -> dict[str, float]:
    """A delivery as a forge sends it, to the server of `maestro dev`."""
    project, cli = _project(folder)
    bare, work = _repository(folder)
    _push(work)
    tip = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=work, text=True).strip()
    forge = {
        "name": "shop",
        "forge": "github",
        "repository": "acme/shop",
        "clone": str(bare),
        "secrets": ["S"],
    }
    (project / "resources" / "forges.yaml").write_text(
        json.dumps({"repositories": [forge]}), encoding="utf-8"
    )
    os.environ["MAESTRO_SECRET_S"] = secret = "made-up-for-this-bench"  # noqa: S105 - as it says
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = ["dev", "--port", str(port), "--no-ui", "--no-daemon"]
    with _process([*cli, *served], project, folder / "dev.log"):
        _wait((project / ".maestro" / "run" / "ready").exists, 60)
        return _hops(project, _deliver(port, secret, tip))


def _deliver(port: int, secret: str, tip: str) -> float:
    """When the delivery was begun."""
    repository = {"full_name": "acme/shop"}
    form = {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": tip,
        "repository": repository,
        "commits": [],
    }
    body = json.dumps(form).encode()
    headers = {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": "bench",
        "x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    started = time.time()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/webhooks/shop", body, headers)
    reply = connection.getresponse()
    if reply.status != http.HTTPStatus.ACCEPTED:
        sys.exit(f"the delivery was refused: {reply.read().decode()}")
    connection.close()
    return started


def _project(folder: Path) -> tuple[Path, list[str]]:
    cli = [str(Path(sys.executable).parent / "maestro")]
    project = folder / "shop"
    _call([*cli, "init", str(project)])
    for path in (project / "assets").rglob("*.yaml"):
        path.unlink()
    (project / "assets" / "push-bench.yaml").write_text(FLOW, encoding="utf-8")
    return project, cli


def _hops(project: Path, pushed: float) -> dict[str, float]:
    """Seconds from the push to the first attempt, and how they were spent on the way."""
    end = _wait(lambda: _first_step(project), 60)
    home = project / ".maestro"
    received = _ask(home / "inbox" / "inbox.sqlite", "SELECT max(received_at) FROM event")
    requested = _ask(home / "journal.sqlite", "SELECT max(requested_at) FROM run")
    admitted = _ask(home / "journal.sqlite", "SELECT max(started_at) FROM run")
    stops = {"hop git and hook, or the delivery": received, "hop inbox and flow": requested}
    stops |= {"hop a process and admission": admitted, "hop Dagster run to first step": end}
    found, before = {"value": end - pushed}, pushed
    for name, at in stops.items():
        found[name], before = at - before, at
    return found


def _first_step(project: Path) -> float | None:
    """When the first attempt began, as the journal wrote it; seconds since the epoch."""
    database = project / ".maestro" / "journal.sqlite"
    return _ask(database, "SELECT min(started_at) FROM attempt") or None if database.exists() else None


def _ask(database: Path, question: str) -> float:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute(question).fetchone()
        except sqlite3.OperationalError:  # the table is not there yet
            return 0.0
    return float(row[0]) if row and row[0] else 0.0


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
        end = _wait(lambda: _step_start(instance), 120)
        record = instance.get_run_records(limit=1)[0]
        created = record.create_timestamp.timestamp()
        return {
            "value": end - pushed,
            "hop git and the daemon's tick": created - pushed,
            "hop launcher to first step": end - created,
        }


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
