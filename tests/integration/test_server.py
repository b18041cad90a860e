"""`maestro dev` serves: webhooks before anything else has loaded, then the Dagster UI, in a real browser."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.interface import run_id_for

SECRET = "webhook-secret-0123456789"
CHROMIUM = os.environ.get("MAESTRO_CHROMIUM") or shutil.which("chromium")
MOST_BYTES = 1_600_000  # of a page on the wire
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Neighbour(ThreadingHTTPServer):
    """Whom the flow asks: the run goes on when it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Waiting)
        self.goes_on = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def flow(self) -> dict[str, Any]:
        asked = {"url": f"http://127.0.0.1:{self.server_port}/"}
        tasks = [
            {"id": "ask", "uses": "pkg:http/get@1.0.0", "with": asked, "egress": ["127.0.0.1"]},
            {"id": "hello", "uses": "pkg:text/template@1.0.0", "with": {"template": "hi"}, "needs": ["ask"]},
        ]
        return {"name": "slow", "version": "1.0.0", "on": [{"event": "push"}], "tasks": tasks}


class Waiting(BaseHTTPRequestHandler):
    server: Neighbour

    def do_GET(self) -> None:
        self.server.goes_on.wait(90)
        self.send_response(HTTPStatus.OK)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """The server of a yard, seen from outside."""

    def __init__(self, yard: Any, folder: Path, neighbour: Neighbour) -> None:
        self.neighbour = neighbour
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.base = f"http://127.0.0.1:{self.port}"
        self.yard = yard
        self.started: subprocess.Popen[bytes] | None = None
        self.folder = folder
        yard.arguments = ["dev", "--port", str(self.port), "--no-daemon"]
        yard.environment["MAESTRO_SECRET_SHOP"] = SECRET
        yard.environment["MAESTRO_NETWORK_ALLOW_PRIVATE"] = "127.0.0.1"
        self.tip = _make_repository(folder)
        forges = {
            "name": "shop",
            "forge": "github",
            "repository": "acme/shop",
            "clone": str(folder / "shop.git"),
            "secrets": ["SHOP"],
        }
        (yard.project.root / "resources" / "forges.yaml").write_text(json.dumps({"repositories": [forges]}))

    def call(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON; 0 where nobody listens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.base + path, body, named)  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - ours
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def push(self) -> tuple[int, Any]:
        """A delivery, as GitHub sends it."""
        body = json.dumps(
            {
                "ref": "refs/heads/main",
                "before": "0" * 40,
                "after": self.tip,
                "repository": {"full_name": "acme/shop"},
                "commits": [],
            }
        ).encode()
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        return self.call(
            "/webhooks/shop",
            body,
            content_type="application/json",
            x_github_event="push",
            x_github_delivery="72d3162e-cc78-11e3-81ab-4c9367dc0958",
            x_hub_signature_256=f"sha256={digest}",
        )

    def push_soon(self) -> tuple[str, tuple[int, Any]]:
        """The answer to the first delivery that is answered, and what the UI was at then."""
        end = time.monotonic() + 60
        while (answer := self.push())[0] == 0 and time.monotonic() < end:
            time.sleep(0.05)
        return self.ui(), answer

    def ask(self, query: str) -> Any:
        body = json.dumps({"query": query}).encode()
        return self.call("/dagster/graphql", body, content_type="application/json")[1]["data"]

    def ui(self) -> str:
        return str((self.call("/readyz")[1] or {}).get("ui"))


@pytest.fixture
def site(yard: Any, tmp_path: Path) -> Iterator[Site]:
    neighbour = Neighbour()
    found = Site(yard, tmp_path, neighbour)
    yard.write_flow(neighbour.flow())
    yield found
    neighbour.goes_on.set()
    if found.started is not None:
        found.started.wait(60)
    if yard.loop is not None:  # the server leaves with the loop
        yard.stop(signal.SIGTERM)
    yard.wait_for(lambda: found.call("/healthz")[0] == 0, 20, "the end of the server")
    neighbour.shutdown()
    neighbour.server_close()


def _make_repository(folder: Path) -> str:
    def git(*arguments: str, where: Path) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout

    work, bare = folder / "shop", folder / "shop.git"
    work.mkdir(exist_ok=True)
    git("init", "--quiet", "--initial-branch=main", str(work / "lib"), where=folder)
    (work / "lib" / "file").write_text("x")
    git("add", "file", where=work / "lib")
    git("commit", "--quiet", "-m", "one", where=work / "lib")
    git("clone", "--quiet", "--bare", str(work / "lib"), str(bare), where=folder)
    return git("rev-parse", "HEAD", where=work / "lib").strip()


def test_webhooks_while_the_ui_loads_then_the_ui_with_live_logs(site: Site) -> None:
    site.yard.environment["MAESTRO_MAX_CONCURRENT_RUNS"] = "1"
    site.neighbour.goes_on.set()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.push_soon)
        site.yard.start()
        ui, (status, delivery) = first.result()
    assert ui == "loading", "the delivery came before the UI"
    assert status == HTTPStatus.ACCEPTED, delivery
    assert [event["new"] for event in delivery["events"]] == [True]
    assert [event["new"] for event in site.push()[1]["events"]] == [False]
    run_id = run_id_for(delivery["events"][0]["id"], "slow")
    site.yard.wait_for(lambda: site.ui() == "ready", 90, "the UI")
    site.yard.wait_for(
        lambda: any(run.run_id == run_id for run in site.yard.engine.list_runs()), 60, "the run"
    )
    view = site.yard.wait_closed(run_id)
    assert view.status == "succeeded"
    if CHROMIUM:
        _browse(site)
    notebook = urllib.request.urlopen(f"{site.base}/dagster/notebook?path=x&repoLocName=maestro", timeout=20)  # noqa: S310 - ours
    with notebook:
        assert notebook.read().startswith(b"<!DOCTYPE html>"), "a page like any other: nothing is rendered"


def test_a_server_that_is_killed_comes_back_and_one_that_cannot_ends_the_loop(site: Site) -> None:
    """A supervisor sees the loop only, so the loop has to see the server."""
    site.yard.arguments = ["dev", "--port", str(site.port), "--no-ui", "--no-daemon"]
    site.neighbour.goes_on.set()
    site.yard.start()
    site.yard.wait_for(lambda: site.call("/readyz")[0] == HTTPStatus.OK, 60, "the server")
    _kill_server(site)
    site.yard.wait_for(lambda: site.push()[0] == HTTPStatus.ACCEPTED, 60, "the next server")
    assert "the server has ended (ended by SIGKILL)" in site.yard.log.read_text()

    _kill_server(site)
    with _hold(site.port):  # so that it cannot be started any more
        assert site.yard.loop is not None
        assert site.yard.loop.wait(90) == 1
    said = site.yard.log.read_text()
    assert "error[server-lost]: the server has ended 5 times in a row" in said
    assert said.count("the server has ended (exit status 1)") == 3, said  # and two were killed
    site.yard.loop = None


def _kill_server(site: Site) -> None:
    note = site.yard.project.home / "run" / "maestro_dagster.api.json"
    os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)


def _hold(port: int) -> socket.socket:
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:  # the server is still dying
            assert time.monotonic() < end
            time.sleep(0.01)


def _browse(site: Site) -> None:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    size, wrong, frames = [0], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        wire = context.new_cdp_session(page)
        wire.send("Network.enable")
        wire.on("Network.loadingFinished", lambda event: size.append(event["encodedDataLength"]))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "response",
            lambda reply: wrong.append(reply.url) if reply.status >= HTTPStatus.BAD_REQUEST else None,
        )
        page.on("websocket", lambda found: found.on("framereceived", lambda text: frames.append(str(text))))

        page.goto(site.base, wait_until="networkidle")
        page.get_by_text("slow", exact=True).first.wait_for()
        assert page.url.startswith(f"{site.base}/dagster/")
        assert page.get_by_role("dialog").count() == 0, "no window stands before the first page"
        assert 100_000 < sum(size) < MOST_BYTES
        page.screenshot(path=str(site.folder / "first.png"))

        first = sum(size)
        page.goto(f"{site.base}/dagster/runs", wait_until="networkidle")
        assert sum(size) - first < first / 5, "hashed files are kept by the browser"

        site.neighbour.goes_on.clear()
        run = _launch(site)
        page.goto(f"{site.base}/dagster/runs/{run}", wait_until="domcontentloaded")
        page.get_by_text("STEP_START").first.wait_for(timeout=60_000)
        assert not any("RunSuccessEvent" in frame for frame in frames)
        site.neighbour.goes_on.set()
        page.get_by_text("RUN_SUCCESS").first.wait_for(timeout=60_000)
        page.screenshot(path=str(site.folder / "run.png"))
        assert any("RunSuccessEvent" in frame for frame in frames), "the end came over the websocket"
        browser.close()
    assert wrong == []


def _launch(site: Site) -> str:
    """A run of the flow, as the page would ask for it; its id when it has begun."""
    before = {run["runId"] for run in _runs(site)}
    command = ["maestro", "run", "slow", "--json"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    site.started = subprocess.Popen(
        command,
        cwd=site.yard.project.root,
        env={**site.yard.environment, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if fresh := [run["runId"] for run in _runs(site) if run["runId"] not in before]:
            return str(fresh[0])
        time.sleep(0.1)
    pytest.fail("the run did not begin")


def _runs(site: Site) -> list[dict[str, str]]:
    return list(site.ask("{runsOrError{... on Runs{results{runId}}}}")["runsOrError"]["results"])
