"""`make picture`: runs the demo's project under a real Dagster UI and takes the README's screenshots.

Needs chromium on the PATH (or MAESTRO_CHROMIUM) and the `browser` extra.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
BIN = Path(sys.executable).parent


def main() -> None:
    chromium = find_chromium()
    demo = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "demo-project"
    shop = demo / "shop"
    if not (shop / "pyproject.toml").is_file():
        subprocess.run([str(BIN / "maestro"), "demo", "--dir", str(demo)], check=True, timeout=300)
    OUT.mkdir(exist_ok=True)
    with serve(shop) as base:
        for _ in range(3):  # so that the plots are lines
            _release(shop, demo / "example-lib")
        _take(chromium, base)


def find_chromium() -> str:
    found = os.environ.get("MAESTRO_CHROMIUM") or shutil.which("chromium")
    if not found:
        sys.exit("no chromium: install your distribution's package or set MAESTRO_CHROMIUM")
    return found


@contextlib.contextmanager
def open_page(chromium: str) -> Iterator[Page]:
    """A page of a new browser."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        yield page
        browser.close()


def _take(chromium: str, base: str) -> None:
    with open_page(chromium) as page:
        for name, path, buttons in (
            ("graph", "/locations/maestro/asset-groups/python_release/lineage", ()),
            ("evidence", "/assets/python-release/evidence?view=overview", ()),
            ("plots", "/assets/python-release/build?view=overview", ("Plots", "Events")),
        ):
            page.goto(base + path, wait_until="networkidle")
            for button in buttons:
                page.get_by_text(button, exact=True).last.click()  # a tab before it may be named alike
            page.wait_for_timeout(3000)
            page.screenshot(path=str(OUT / f"{name}.png"))
            print(f"docs/pictures/{name}.png")  # noqa: T201 - this is the program's output


def _release(shop: Path, work: Path) -> None:
    """Pushes a commit that is released, and waits for it."""
    known = {run["run_id"] for run in _runs(shop)}
    number = f"1.{len(known)}.0"
    pyproject = work / "pyproject.toml"
    text = re.sub(r'(?m)^version = ".*"', f'version = "{number}"', pyproject.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^dependencies = .*", "dependencies = []", text)
    pyproject.write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=Maestro demo", "-c", "user.email=demo@example.com"]
    git = ["git", *identity, "-C", str(work)]
    subprocess.run(
        [*git, "commit", "--quiet", "--all", "-m", f"fix: release {number}"], check=True, timeout=30
    )
    subprocess.run([*git, "push", "--quiet", "origin", "main"], check=True, timeout=30)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for run in _runs(shop):
            if run["run_id"] not in known and run["status"] not in {"requested", "running"}:
                return
        time.sleep(1)
    sys.exit("the push was not released within 120 s")


def _runs(shop: Path) -> list[dict[str, str]]:
    command = [str(BIN / "maestro"), "status", "--json"]
    done = subprocess.run(command, cwd=shop, capture_output=True, text=True, timeout=60, check=True)
    return list(json.loads(done.stdout)["runs"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(shop: Path, *options: str) -> Iterator[str]:
    """The address of the project's Dagster UI, which ends with the block."""
    port = _free_port()
    process = subprocess.Popen(
        [str(BIN / "maestro"), "dev", "--port", str(port), *options], cwd=shop, start_new_session=True
    )
    try:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/dagster/server_info", timeout=2).close()
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/dagster"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    main()
