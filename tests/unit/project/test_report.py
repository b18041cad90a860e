"""The reporter beside the loop: it starts, tells, stops, and keeps nobody waiting."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.cli.report import command as report_command
from maestro_dagster.errors import EventError
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.report import RunReport, make_wishes
from maestro_dagster.events.report_call import no_release
from maestro_dagster.events.report_send import Patience
from maestro_dagster.project.intake import open_intake
from maestro_dagster.project.report import Reporter, check_reporting, has_outbox, open_reporter
from maestro_dagster.project.root import Project, open_project
from maestro_dagster.project.scaffold import init_project

TOKEN = "tok-0123456789-abcdef"


class Forge:
    """Takes statuses of GitHub; `open` lets it answer."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.open.wait(20)
                right = self.headers["authorization"] == f"Bearer {TOKEN}"
                if right:
                    outer.got.append(body)
                self.send_response(201 if right else 401)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.api = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def forge() -> Iterator[Forge]:
    made = Forge()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.open.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    init_project(tmp_path / "shop")
    return open_project(tmp_path / "shop", {})


def name_forge(project: Project, api: str | None, *, reported: bool = True) -> None:
    row = {"name": "shop", "forge": "github", "repository": "acme/shop", "clone": "/srv/shop.git",
           "secrets": ["SHOP"], **({"api": api} if api else {})}  # fmt: skip
    rows = [{**row, "token": "SHOP_TOKEN"} if reported else row]
    (project.root / "resources" / "forges.yaml").write_text(json.dumps({"repositories": rows}))


def store_token(project: Project, text: str) -> None:
    path = project.home / "secrets" / "SHOP_TOKEN"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(handle, text.encode())
    os.close(handle)


def wish(reporter: Reporter, flow: str = "build", count: int = 1) -> None:
    for number in range(count):
        report = RunReport(
            "shop", f"r{number}", f"{flow}{number}", "running", "a" * 40, "refs/heads/main", 1.0
        )
        reporter.outbox.put(make_wishes(report), {}, time.time())


def wait_for(found: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_a_token_nothing_is_opened(project: Project, forge: Forge) -> None:
    name_forge(project, forge.api, reported=False)
    reporter = open_reporter(project, pytest.fail)
    assert (reporter.collect(), reporter.send()) == (0, [])
    assert not has_outbox(project)
    assert check_reporting(project) == (0, 0)


def test_more_than_one_batch_is_sent_without_a_pause(project: Project, forge: Forge) -> None:
    name_forge(project, forge.api)
    store_token(project, TOKEN)
    reporter = open_reporter(project, pytest.fail)
    wish(reporter, count=45)
    reporter.start()
    wait_for(lambda: len(forge.got) == 45)
    reporter.stop()
    assert {body["context"] for body in forge.got} == {f"maestro/build{number}" for number in range(45)}
    assert check_reporting(project) == (1, 0)


def test_it_stops_while_a_forge_keeps_it_waiting_and_gives_everything_back(
    project: Project, forge: Forge
) -> None:
    name_forge(project, forge.api)
    store_token(project, TOKEN)
    forge.open.clear()
    reporter = open_reporter(project, pytest.fail)
    wish(reporter, count=3)
    reporter.start()
    wait_for(lambda: reporter._sending is not None)
    reporter.stop()
    assert not any(thread.is_alive() for thread in reporter._threads)
    assert len(reporter.outbox.claim("next", 10, time.time(), 60.0)) == 3


def test_a_trouble_is_said_once_and_its_end_too(project: Project, forge: Forge) -> None:
    name_forge(project, forge.api)
    store_token(project, "of-another-day-0123")
    said: list[str] = []
    reporter = open_reporter(project, said.append, patience=Patience(first_wait=0.01, longest_wait=0.02))
    wish(reporter, count=2)
    for _ in range(3):
        reporter.send()
        time.sleep(0.05)
    assert len(said) == 1
    assert "a report to shop waits: the forge does not let the token POST (401)" in said[0]
    assert "of-another-day" not in said[0]
    store_token(project, TOKEN)
    wait_for(lambda: reporter.send() and len(forge.got) == 2)
    assert said[1:] == ["shop is reported to again"]


def test_a_forge_without_an_address_waits_for_one(project: Project, forge: Forge) -> None:
    name_forge(project, None)
    store_token(project, TOKEN)
    said: list[str] = []
    reporter = open_reporter(project, said.append)
    wish(reporter)
    (sent,) = reporter.send()
    assert (sent.calls, sent.gave_up) == (0, False)
    assert "not known where the forge is told" in said[0]
    with pytest.raises(EventError):
        check_reporting(project)
    name_forge(project, forge.api)
    reporter.outbox.retry(time.time())
    assert [one.error for one in reporter.send()] == [None]


def test_a_release_that_the_forge_tells_of_gets_its_evidence_at_once(project: Project, forge: Forge) -> None:
    name_forge(project, forge.api)
    reporter = open_reporter(project, pytest.fail)
    report = RunReport("shop", "r1", "build", "succeeded", "a" * 40, "refs/tags/v1", 1.0, evidence="sha256:0")
    reporter.outbox.put(make_wishes(report), {}, time.time())
    (entry,) = (each for each in reporter.outbox.claim("me", 9, time.time(), 60.0) if each.kind == "release")
    later = time.time() + 900
    reporter.outbox.postpone("me", entry, no_release(), due_at=later, unsure=False, give_up=False)
    reporter.outbox.release("me")
    intake = open_intake(project, pytest.fail, wait=True)
    facts = {"action": "published", "tag": "v1"}
    event = RepositoryEvent(
        *("webhook-0001", "/srv/shop.git", "0" * 40, "0" * 40, "refs/tags/v1", 1.0, "webhook", "shop"),
        kind="release", facts=facts,
    )  # fmt: skip
    intake.inbox.accept([event])
    intake.take()
    due = [each.kind for each in reporter.outbox.claim("next", 9, time.time(), 60.0)]
    assert sorted(due) == ["release", "status"]


def test_the_trouble_of_both_threads_is_said_once(project: Project, forge: Forge) -> None:
    name_forge(project, forge.api)
    store_token(project, TOKEN)
    said: list[str] = []
    reporter = open_reporter(project, said.append)
    path = project.root / "resources" / "forges.yaml"
    whole = path.read_text()
    path.write_text("repositories: [")
    reporter.start()
    wait_for(lambda: reporter._told.keys() >= {"collect", "send"})
    time.sleep(2.5)
    assert [text.partition(":")[0] for text in said] == ["reporting to forges waits"]
    path.write_text(whole)
    wish(reporter)
    wait_for(lambda: forge.got)
    reporter.stop()
    assert len(said) == 1


def test_people_see_when_the_next_try_is(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    name_forge(project, "http://127.0.0.1:1")
    reporter = open_reporter(project, pytest.fail)
    wish(reporter, count=2)
    entry, other = reporter.outbox.claim("me", 9, time.time(), 60.0)
    error = EventError("the forge was not reached", code="report-unavailable")
    later = time.time() + 25 * 60 + 30
    reporter.outbox.postpone("me", entry, error, due_at=later, unsure=False, give_up=False)
    reporter.outbox.settle("me", other, {}, time.time())
    shown = CliRunner().invoke(report_command, [], catch_exceptions=False).output
    (line,) = (line for line in shown.splitlines() if "not reached" in line)
    assert "in 25 min" in line
    rows = json.loads(CliRunner().invoke(report_command, ["--json"], catch_exceptions=False).output)
    assert {row["target"]: row["due_at"] for row in rows["reports"]} == {
        entry.target: later, other.target: None
    }  # fmt: skip
