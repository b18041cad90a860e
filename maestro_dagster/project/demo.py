"""The demonstration: real pushes to a real repository, two flows, and two attempts that must fail.

Everything is done as a person would do it, by the commands `maestro` and `git` in processes of their own.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from maestro_dagster.errors import MaestroError, ProjectError
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import shipped_project
from maestro_dagster.project.services import open_engine

MARKER = ".maestro-demo"
RUN_LIMIT = 100.0  # seconds for one run, pushed or not
READY_LIMIT = 60.0  # seconds until `maestro dev` is ready
IDENTITY = ("-c", "user.name=Maestro demo", "-c", "user.email=demo@example.com")


class DemoError(MaestroError):
    code = "demo"


@dataclass
class Demo:
    """Where the demonstration takes place, and what it has seen so far."""

    folder: Path
    say: Callable[[str], None]
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.folder / "shop"

    @property
    def origin(self) -> Path:
        return self.folder / "example-lib.git"

    @property
    def work(self) -> Path:
        return self.folder / "example-lib"


def run_demo(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs it all. Raises DemoError where something is not as promised.

    Returns `{"runs": [{"run_id", "flow", "status", "evidence", "steps"}], "public_key",
    "push_to_first_step_ms", "refused": [...], "project"}`.
    """
    demo = Demo(_make_folder(folder), say)
    say("making a project, its key and a Git repository with a hook")
    _maestro(demo, "init", str(demo.project), where=demo.folder)
    _maestro(demo, "recipe", "add", "daily-ai-brief")
    _make_repository(demo)
    _maestro(demo, "hook", "install", str(demo.origin))
    with _worker_loop(demo):
        say("pushing a commit: checkout, plan, gen, test, build, sbom, scan, sign, publish, deploy")
        pushed = _wait_for_push(demo, _commit(demo, "feat: greet people by name"))
        _require(pushed["status"] == "succeeded", f"the pushed run ended {pushed['status']}", pushed)
        say("running the brief on a feed served over HTTP")
        brief = _run_brief(demo)
        _require(brief["status"] == "succeeded", f"the brief ended {brief['status']}", brief)
        say("verifying both evidence bundles")
        for run in (pushed, brief):
            report = _json(_maestro(demo, "verify", run["evidence"], "--json"))
            _require(report["ok"], "an evidence bundle does not verify", report)
        say("pushing a commit with a dependency that an example advisory names")
        blocked = _push_vulnerable(demo)
    say("changing one byte of a copy of a bundle")
    refusal = _break_bundle(demo, Path(pushed["evidence"]))
    return {
        "runs": demo.runs,
        "public_key": (demo.project / ".maestro/keys/maestro.pub.pem").read_text(encoding="ascii"),
        "push_to_first_step_ms": pushed["push_to_first_step_ms"],
        "not_published": {"run_id": blocked["run_id"], "status": blocked["status"]},
        "refused": refusal,
        "project": str(demo.project),
    }


def _make_folder(folder: Path) -> Path:
    """An empty folder; one that an earlier demonstration left is made anew, any other is refused."""
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise ProjectError(
                "the folder is not empty and no earlier demonstration made it",
                place=str(folder),
                remedy="choose another with --dir",
                code="folder-not-empty",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(
        "made by `maestro demo`; it removes this folder when it runs again\n", encoding="utf-8"
    )
    return folder


def _make_repository(demo: Demo) -> None:
    fixture = next(
        iter(sorted((shipped_project() / "recipes/python-release/fixtures").glob("*/pyproject.toml")))
    ).parent
    shutil.copytree(fixture, demo.work, ignore=shutil.ignore_patterns("__pycache__"))
    _git(demo, "init", "--quiet", "--bare", "--initial-branch=main", str(demo.origin), where=demo.folder)
    _git(demo, "init", "--quiet", "--initial-branch=main")
    _git(demo, "remote", "add", "origin", str(demo.origin))


def _commit(demo: Demo, message: str) -> float:
    """Commits everything and pushes it; returns when the push began, in seconds since the epoch."""
    _git(demo, "add", "--all")
    _git(demo, *IDENTITY, "commit", "--quiet", "--message", message)
    started = time.time()
    _git(demo, "push", "--quiet", "origin", "main")
    return started


def _wait_for_push(demo: Demo, pushed_at: float) -> dict[str, Any]:
    """The run of the newest push, when it has ended; `pushed_at` is in seconds since the epoch."""
    run_id = _follow(demo, {run["run_id"] for run in demo.runs})
    run = _json(_maestro(demo, "status", run_id, "--json"))
    starts = [step["started_at"] for step in run["steps"] if step["started_at"]]
    run["push_to_first_step_ms"] = round((min(starts) - pushed_at) * 1000) if starts else None
    demo.runs.append(run)
    return run


def _follow(demo: Demo, known: set[str]) -> str:
    """Says how each step of the next pushed run ends; gives the run's id when its evidence is there."""
    # Read from the journal in this process: a command for each look would slow down what it looks at.
    engine = open_engine(open_project(demo.project))
    said: set[str] = set()
    end = time.monotonic() + RUN_LIMIT
    while time.monotonic() < end:
        views = [view for view in engine.list_runs(limit=5) if view.flow == "python-release"]
        for view in (view for view in views if view.run_id not in known):
            for step in view.steps:
                if step.status not in {"waiting", "running"} and step.step not in said:
                    said.add(step.step)
                    demo.say(f"  {step.step}: {step.status}")
            if view.status not in {"requested", "running"} and view.evidence:
                return view.run_id
        time.sleep(0.2)
    raise DemoError(
        f"the push did not become a finished run within {RUN_LIMIT:.0f} s",
        place=str(demo.folder / "dev.log"),
        remedy="read that log, and `maestro status` in the project",
        code="demo-timeout",
    )


def _run_brief(demo: Demo) -> dict[str, Any]:
    fixtures = demo.project / "recipes/daily-ai-brief/fixtures"
    with _feed_server(fixtures) as port:
        done = _maestro(
            demo,
            *("run", "recipes/daily-ai-brief/flow.yaml", "--json"),
            *("-p", f"feed_url=http://127.0.0.1:{port}/feed.xml"),
            # The feed is served on loopback, which a project must allow by name.
            environment={"MAESTRO_NETWORK_ALLOW_PRIVATE": "127.0.0.1"},
            codes=(0, 1, 3),
        )
    run = _json(done)
    if "status" not in run:
        raise DemoError("the brief could not be run", place=json.dumps(run), code="demo-brief")
    run["flow"] = "daily-ai-brief"
    demo.runs.append(run)
    return run


def _push_vulnerable(demo: Demo) -> dict[str, Any]:
    """Adds the dependency that the example advisory names, with a new version, and pushes."""
    advisory = _example_advisory(demo.project / "advisories")
    pyproject = demo.work / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    changed = re.sub(r'(?m)^version = "[^"]+"', 'version = "9.9.9"', text, count=1)
    changed = re.sub(r"(?m)^dependencies = \[.*\]", f'dependencies = ["{advisory}"]', changed, count=1)
    if changed.count(advisory) != 1 or "9.9.9" not in changed:
        raise DemoError(
            "the example package has no version or dependencies line",
            place=str(pyproject),
            code="demo-fixture",
        )
    pyproject.write_text(changed, encoding="utf-8")
    run = _wait_for_push(demo, _commit(demo, "feat: use a dependency with a known hole"))
    scan = next(step for step in run["steps"] if step["id"] == "scan")
    published = [path.name for path in demo.project.rglob("*9.9.9*") if ".maestro" not in path.parts]
    _require(
        run["status"] == "failed" and scan["status"] == "failed", "the vulnerable commit was not stopped", run
    )
    _require(not published, "the vulnerable version was published", {"files": published})
    return run


def _example_advisory(folder: Path) -> str:
    """The requirement that the first example advisory forbids, such as `name==1.0.0`."""
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for affected in record.get("affected", ()):
            if affected.get("versions"):
                return f"{affected['package']['name']}=={affected['versions'][0]}"
    raise DemoError("no example advisory is there", place=str(folder), code="demo-fixture")


def _break_bundle(demo: Demo, bundle: Path) -> dict[str, Any]:
    broken = demo.folder / "broken.zip"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    report = _json(_maestro(demo, "verify", str(broken), "--json", codes=(1,)))
    _require(not report["ok"] and bool(report["problems"]), "a bundle with a changed byte verifies", report)
    return {"bundle": str(broken), "problems": report["problems"]}


@contextlib.contextmanager
def _worker_loop(demo: Demo) -> Iterator[None]:
    log = demo.folder / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command("dev", "--no-ui", "--no-daemon"),
            cwd=demo.project,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(demo, process, log)
            yield
        finally:
            _stop(process)


def _wait_until_ready(demo: Demo, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_LIMIT
    while time.monotonic() < end:
        if (demo.project / ".maestro/run/ready").exists():
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise DemoError(
        "`maestro dev` did not become ready", place=str(log), remedy="read that log", code="demo-dev"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


@contextlib.contextmanager
def _feed_server(folder: Path) -> Iterator[int]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """A demonstration prints its own lines."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "maestro_dagster", *arguments]


def _maestro(
    demo: Demo,
    *arguments: str,
    where: Path | None = None,
    environment: dict[str, str] | None = None,
    codes: tuple[int, ...] = (0,),
) -> str:
    # Whatever the caller's shell says of another project must not leak into this one.
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAESTRO_", "DAGSTER_"))
    }
    return _call(_command(*arguments), where or demo.project, {**clean, **(environment or {})}, codes)


def _git(demo: Demo, *arguments: str, where: Path | None = None) -> str:
    return _call(["git", *arguments], where or demo.work, dict(os.environ), (0,))


def _call(command: list[str], where: Path, environment: dict[str, str], codes: tuple[int, ...]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT,
            check=False,
        )
    except FileNotFoundError as error:
        raise DemoError(f"{command[0]} is not installed", remedy="install it", code="demo-tool") from error
    except subprocess.TimeoutExpired as error:
        raise DemoError(
            f"{' '.join(command[:6])} took longer than {RUN_LIMIT:.0f} s", code="demo-timeout"
        ) from error
    if done.returncode not in codes:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise DemoError(
            f"{' '.join(command[-4:])} ended with {done.returncode}: {said}",
            place=str(where),
            code="demo-command",
        )
    return done.stdout


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


def _require(holds: bool, fact: str, seen: dict[str, Any]) -> None:
    if not holds:
        raise DemoError(fact, place=json.dumps(seen, default=str)[:2000], code="demo-broken-promise")
