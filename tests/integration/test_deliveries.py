"""Deliveries from a forge, many at once, each twice, to a server that is killed: every one starts one run."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.interface import run_id_for
from maestro_dagster.project.intake import open_intake
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.services import open_engine

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
DELIVERIES = 1000 if SOAK else 60
KILLS = 5 if SOAK else 2
AT_ONCE = 50
SECRET = "webhook-secret-0123456789"
FLOW = """\
name: on-any
version: 1.0.0
on: [push, {pr: {forks: true}}]
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: "${{ git.branch }}"}}
"""
SERVER = """
import sys
from pathlib import Path
from maestro_dagster.api.process import listen, serve
from maestro_dagster.project.backend import open_backend
from maestro_dagster.project.root import find_project

project = find_project(Path(sys.argv[1]))
serve(open_backend(project), listen("127.0.0.1", int(sys.argv[2])), project.home, None)
"""
pytestmark = pytest.mark.timeout(900)


class Receiver:
    """The server of a project, without the Dagster UI. It can be killed at any moment."""

    def __init__(self, project: Project) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._arguments = [sys.executable, "-c", SERVER, str(project.root), str(self.port)]
        self._log = (project.root.parent / "server.log").open("ab")
        self._environment = {**os.environ, "MAESTRO_SECRET_SHOP": SECRET}
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._arguments, env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def deliver(self, number: int, body: bytes, event: str, until: float) -> list[dict[str, Any]]:
        """As a forge that sends again until somebody answers; the events of the answer."""
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": f"72d3162e-cc78-11e3-81ab-{number:012x}",
            "X-Hub-Signature-256": f"sha256={digest}",
        }
        while time.monotonic() < until:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("POST", "/webhooks/shop", body, headers)
                reply = connection.getresponse()
                found = json.loads(reply.read())
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.05)
                continue
            finally:
                connection.close()
            assert reply.status == HTTPStatus.ACCEPTED, found
            return list(found["events"])
        raise TimeoutError(number)


@pytest.fixture
def project(tmp_path: Path, new_project: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Project:
    new_project(tmp_path / "yard")
    for path in (tmp_path / "yard/assets").glob("*.yaml"):
        path.unlink()
    (tmp_path / "yard/assets/on-any.yaml").write_text(FLOW)
    monkeypatch.chdir(tmp_path / "yard")
    return find_project()


@pytest.fixture
def tip(project: Project) -> str:
    """A repository of which the forge tells; gives its newest commit."""
    work = project.root.parent / "shop"
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q", "-b", "main", str(work)],
                    ["-C", str(work), *identity, "commit", "-q", "--allow-empty", "-m", "one"]):  # fmt: skip
        subprocess.run(["git", *command], check=True)
    row = {"name": "shop", "forge": "github", "repository": "acme/shop", "secrets": ["SHOP"]}
    # A URL, so that the repository is mirrored.
    forges = {"repositories": [{**row, "clone": work.as_uri()}]}
    (project.root / "resources" / "forges.yaml").write_text(json.dumps(forges))
    done = subprocess.run(["git", "-C", str(work), "rev-parse", "HEAD"], check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def receiver(project: Project, tip: str) -> Iterator[Receiver]:
    found = Receiver(project)
    yield found
    found.stop()


def make_body(number: int, tip: str) -> tuple[bytes, str]:
    """A push or a pull request, by turns."""
    repository = {"full_name": "acme/shop", "id": 1}
    if number % 2:
        told: dict[str, Any] = {"ref": f"refs/heads/b{number}", "before": "0" * 40, "after": tip}
        return json.dumps({**told, "repository": repository, "commits": []}).encode(), "push"
    base = {"ref": "main", "sha": tip, "repo": {"id": 1}}
    head = {"ref": "feature", "sha": tip, "repo": {"id": 2}}
    request = {"number": number, "title": "a change", "base": base, "head": head}
    body = {"action": "opened", "pull_request": request, "repository": repository}
    return json.dumps({**body, "number": number}).encode(), "pull_request"


def test_every_delivery_starts_one_run(project: Project, tip: str, receiver: Receiver) -> None:
    rng = random.Random(4)
    numbers = [number for number in range(1, DELIVERIES + 1) for _ in range(2)]
    rng.shuffle(numbers)
    kill_at = {len(numbers) * (each + 1) // (KILLS + 1) for each in range(KILLS)}
    sent, lock, until = itertools.count(1), threading.Lock(), time.monotonic() + 600
    said: list[str] = []

    def deliver(number: int) -> tuple[int, list[dict[str, Any]]]:
        answer = receiver.deliver(number, *make_body(number, tip), until)
        with lock:
            if next(sent) in kill_at:
                receiver.kill()
        return number, answer

    intake = open_intake(project, said.append)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(deliver, number) for number in numbers]
        while not all(job.done() for job in jobs):  # as the loop does, while they come in
            intake.take(retry=True)
            time.sleep(0.02)
        answers = [job.result() for job in jobs]
    while time.monotonic() < until:
        intake.take(retry=True)
        if not intake.inbox.pending():
            break
        time.sleep(0.05)

    ids = {number: {event["id"] for event in events} for number, events in answers}
    assert all(len(found) == 1 for found in ids.values()), "both copies are one event"
    events = {number: next(iter(found)) for number, found in ids.items()}
    assert len(set(events.values())) == DELIVERIES
    new = Counter(event["id"] for _, found in answers for event in found if event["new"])
    assert set(new.values()) <= {1}
    assert len(new) >= DELIVERIES - KILLS * AT_ONCE, "a kill may have taken the answer, not the event"
    assert len(intake.inbox.recent(DELIVERIES * 3)) == DELIVERIES
    engine = open_engine(project)
    assert sorted(engine.requested()) == sorted(run_id_for(each, "on-any") for each in events.values())
    causes = Counter(engine.view(run_id_for(each, "on-any")).cause for each in events.values())
    assert causes == {"push": DELIVERIES // 2, "event": DELIVERIES // 2}
    view = engine.view(run_id_for(events[2], "on-any"))
    assert view.partition == "shop@pr/2"
    assert {"sha": tip, "number": "2", "fork": "true", "base_ref": "main"}.items() <= view.git.items()
    assert not [line for line in said if "waits" in line], said[:3]
    intake.inbox.close()
