"""The recipe as its README tells it: add it, serve the fixture, run it, verify the evidence."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

RECIPE = "recipes/daily-ai-brief"


def maestro(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAESTRO_", "DAGSTER_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "maestro_dagster", *arguments],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def feed(repository: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(repository / RECIPE / "fixtures"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/feed.xml"
        server.shutdown()
        thread.join()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    assert maestro(tmp_path, "init", "shop").returncode == 0
    assert maestro(tmp_path / "shop", "recipe", "add", "daily-ai-brief").returncode == 0
    return tmp_path / "shop"


@pytest.mark.slow
def test_the_brief_is_what_is_promised(shop: Path, feed: str, repository: Path) -> None:
    expected = json.loads((repository / RECIPE / "expected" / "brief.json").read_text())
    arguments = ("run", "daily-ai-brief", "-p", f"feed_url={feed}", "--json")
    done = maestro(shop, *arguments, MAESTRO_NETWORK_ALLOW_PRIVATE="127.0.0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(done.stdout)
    assert {step["id"]: step["status"] for step in run["steps"]} == expected["steps"]
    brief = _artifact(shop, run, "brief").decode()
    assert expected["words"]["min"] <= len(brief.split()) <= expected["words"]["max"]
    for keyword in expected["keywords"]:
        assert keyword in brief.lower()
    entries = json.loads(_artifact(shop, run, "parse"))["entries"]
    assert len(entries) == expected["entries"]
    assert json.loads(maestro(shop, "verify", run["evidence"], "--json").stdout)["ok"]
    with zipfile.ZipFile(run["evidence"]) as bundle:
        report = json.loads(bundle.read("cost-report.json"))
    assert report


@pytest.mark.slow
def test_a_local_feed_is_refused_unless_the_project_allows_it(shop: Path, feed: str) -> None:
    done = maestro(shop, "run", "daily-ai-brief", "-p", f"feed_url={feed}", "--json")
    assert done.returncode == 1
    run = json.loads(done.stdout)
    statuses = {step["id"]: step["status"] for step in run["steps"]}
    assert statuses == {"fetch": "failed", "parse": "skipped", "brief": "skipped"}
    failed = next(step for step in run["steps"] if step["id"] == "fetch")
    assert failed["error"]["code"] == "http-address"
    assert failed["attempts"] == 1
    assert json.loads(maestro(shop, "verify", run["evidence"], "--json").stdout)["ok"]


def _artifact(shop: Path, run: dict, step: str) -> bytes:  # type: ignore[type-arg]
    digest = next(each["output_digest"] for each in run["steps"] if each["id"] == step)
    found = list((shop / ".maestro" / "artifacts").rglob(digest.removeprefix("sha256:")))
    assert len(found) == 1, found
    return found[0].read_bytes()
