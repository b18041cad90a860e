"""A push comes in, a run goes out, and the forge is told: by the real loop, over a real socket."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.report import open_outbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
for _name in ("forge_server", "forge_kinds"):
    if _name not in sys.modules:
        _path = Path(__file__).parents[1] / "unit" / "events" / f"{_name}.py"
        _spec = importlib.util.spec_from_file_location(_name, _path)
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_name] = _module = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(_module)

from forge_kinds import GitHub  # noqa: E402 - loaded above
from forge_server import TOKEN, fails  # noqa: E402


@pytest.fixture
def forge() -> Iterator[Any]:
    with GitHub().serve() as found:
        found.any_commit = True
        yield found


def make_repository(folder: Path, inbox: Path) -> tuple[Path, str]:
    """A bare repository with our hook, and its one commit, pushed to main and a topic."""
    bare, work = folder / "shop.git", folder / "work"

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git("init", "--quiet", "--initial-branch=main", str(work))
    (work / "file").write_text("1")
    git("-C", str(work), "add", "file")
    git("-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "one")
    install_hook(bare, inbox)
    git("-C", str(work), "push", "--quiet", str(bare), "HEAD:refs/heads/main")
    return bare, git("-C", str(work), "rev-parse", "HEAD")


def configure(yard: Any, forge: Any, bare: Path) -> None:
    rows = [{"name": "shop", "forge": "github", "repository": "acme/shop", "clone": str(bare),
             "secrets": ["SHOP"], "api": forge.api, "token": "SHOP_TOKEN"}]  # fmt: skip
    place = yard.project.root / "resources" / "forges.yaml"
    place.write_text(json.dumps({"repositories": rows}))
    secrets = yard.project.home / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    handle = os.open(secrets / "SHOP_TOKEN", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(handle, TOKEN.encode())
    os.close(handle)
    yard.environment["MAESTRO_PUBLIC_URL"] = "https://maestro.example/"


def make_flow(name: str, witness: Path, events: list[str]) -> dict[str, Any]:
    config = {"file": str(witness), "seconds": 0.05}
    tasks = [{"id": "one", "uses": "pkg:test/witness@1.0.0", "with": config}]
    return {"name": name, "version": "1.0.0", "on": [{"event": event} for event in events], "tasks": tasks}


def test_a_forge_is_told_whatever_happens_meanwhile(yard: Any, forge: Any, tmp_path: Path) -> None:
    yard.write_flow(make_flow("build", tmp_path / "witness", ["push"]))
    for name in ("review", "licence"):
        yard.write_flow(make_flow(name, tmp_path / "witness", ["pr"]))
    bare, sha = make_repository(tmp_path, yard.project.inbox)
    configure(yard, forge, bare)
    forge.faults.extend([fails(503), fails(500)])
    yard.start()
    outbox = open_outbox(yard.project)
    yard.wait_for(lambda: any(entry.error for entry in outbox.entries()), 60, "the forge's bad moment")
    yard.stop(signal.SIGKILL)
    assert not [row for row in forge.statuses if row["state"] == "success"]
    accept_pull_request(yard, bare, sha)
    yard.start()
    yard.wait_for(lambda: len(succeeded(forge)) == 3, 90, yard.log.read_text())
    yard.wait_for(lambda: outbox.counts()["due"] == 0, 30, "all that is due")

    assert set(succeeded(forge)) == {"maestro/build", "maestro/licence/pr", "maestro/review/pr"}
    run = next(row for row in yard.engine.services.journal.runs(9) if row.flow == "build")
    status = succeeded(forge)["maestro/build"]
    assert run.evidence_digest[:19] in status["description"]
    assert status["target_url"] == f"https://maestro.example/dagster/runs/{run.dagster_runs[-1]}"
    statuses = [asked for asked in forge.writes() if "/statuses/" in asked.path]
    assert all(asked.path.endswith(sha) for asked in statuses)
    (comment,) = forge.comments
    assert comment["of"] == 12
    assert "all 2 flows succeeded" in comment["body"]
    told = len(forge.calls)
    time.sleep(2.5)  # two more passes of the loop have nothing to say
    assert len(forge.calls) == told
    assert TOKEN not in yard.log.read_text()
    kept = [path.read_bytes() for path in yard.project.inbox.glob("outbox.sqlite*")]  # none on a server
    assert not [data for data in [repr(outbox.entries()).encode(), *kept] if TOKEN.encode() in data]
    yard.stop()


def accept_pull_request(yard: Any, bare: Path, sha: str) -> None:
    event = RepositoryEvent(
        event_id="webhook-0123456789",
        repository=str(bare),
        before="0" * 40,
        after=sha,
        ref="refs/heads/main",
        received_at=time.time(),
        source="webhook",
        name="shop",
        kind="pr",
        facts={"forge": "github", "action": "opened", "number": 12, "title": "a change", "fork": False},
    )
    open_inbox(yard.project).accept([event])


def succeeded(forge: Any) -> dict[str, Any]:
    """The newest status of each name, those that say success."""
    newest = {row["context"]: row for row in reversed(forge.statuses)}
    return {name: row for name, row in newest.items() if row["state"] == "success"}
