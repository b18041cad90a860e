"""A pushed commit whose tests hunt for the key, the journal, the store, the network and other processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FLOW = """\
name: hostile
version: 1.0.0
params:
  repository: {type: string, required: true}
  sha: {type: string, required: true}
tasks:
  - id: checkout
    uses: pkg:git/checkout@1.0.0
    with: {repository: "${{ params.repository }}", ref: "${{ params.sha }}"}
  - id: test
    uses: pkg:python/test@1.0.0
    needs: [checkout]
"""
SENTINEL = "maestro-sentinel-process"


@pytest.fixture
def sentinel() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the operator, which the commit must neither see nor reach."""
    process = subprocess.Popen([sys.executable, "-c", f"import time; '{SENTINEL}'; time.sleep(120)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """A server on loopback that notes who comes."""
    server = socket.create_server(("127.0.0.1", 0))
    visits: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            visits.append(str(address))
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], visits
    # shutdown wakes the thread; close alone leaves it in accept
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_a_hostile_commit_gets_nothing_and_its_evidence_verifies(
    tmp_path: Path,
    new_project: Callable[[Path], None],
    sentinel: subprocess.Popen[bytes],
    listener: tuple[int, list[str]],
) -> None:
    port, visits = listener
    shop = tmp_path / "shop"
    new_project(shop)
    key = (shop / ".maestro/keys/maestro.pem").read_bytes()
    source = (Path(__file__).parent / "hostile_test_source.py").read_text(encoding="utf-8")
    for mark, value in {
        "@HOME@": str(shop / ".maestro"),
        "@PROJECT@": str(shop),
        "@PID@": str(sentinel.pid),
        "@PORT@": str(port),
        "@SENTINEL@": SENTINEL,
        "@YEK@": key.decode().splitlines()[1][::-1],
    }.items():
        source = source.replace(mark, value)
    work = tmp_path / "work"
    sha = _commit(work, {"test_hostile.py": source, "module.py": "VALUE = 1\n"})
    (shop / "assets" / "hostile.yaml").write_text(FLOW, encoding="utf-8")

    run = json.loads(
        _maestro(
            shop,
            *("run", "assets/hostile.yaml", "--json"),
            *("-p", f"repository={work}", "-p", f"sha={sha}"),
            environment={"MAESTRO_SECRET_TOKEN": "CANARY-SECRET-7fb1"},
            codes=(0, 1),
        )
    )

    assert run.get("status") == "succeeded", json.dumps(run, indent=1)
    assert not visits
    assert sentinel.poll() is None
    assert (shop / ".maestro/keys/maestro.pem").read_bytes() == key
    assert "31.4159" not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert json.loads(_maestro(shop, "verify", run["evidence"], "--json"))["ok"] is True


def _commit(work: Path, files: dict[str, str]) -> str:
    work.mkdir()
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    git = ["git", "-C", str(work), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "feat: innocent"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _maestro(
    where: Path, *arguments: str, environment: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)
) -> str:
    foreign = ("MAESTRO_", "DAGSTER_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [sys.executable, "-m", "maestro_dagster", *arguments],
        cwd=where,
        env={**clean, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode in codes, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
