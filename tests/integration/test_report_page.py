"""The report for people in a real browser: readable offline, without a script, asking nobody for anything."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.claim import claim_bytes
from maestro_dagster.evidence.interface import Claim, OutputRef, RunRecord
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.normal import flow_digest, flow_json

CHROMIUM = os.environ.get("MAESTRO_CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM, reason="no chromium: install your distribution's package or set MAESTRO_CHROMIUM"
    ),
]
HOSTILE = '<script>document.title="taken"</script><img src="http://127.0.0.1:9/x.png">'


def test_the_report_is_one_quiet_page(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "report.html"
    page_file.write_bytes(_report(tmp_path))
    asked: list[str] = []
    said: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(page_file.as_uri())
        text = page.inner_text("body")
        title = page.title()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        scripts = page.locator("script").count()
        wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        browser.close()
    assert asked == [page_file.as_uri()]
    assert said == []
    assert scripts == 0
    assert title != "taken"
    assert HOSTILE in text, "what a step said is shown as text"
    assert "page-flow" in text
    assert "0.25\N{NO-BREAK SPACE}USD" in text
    assert background != "rgb(255, 255, 255)", "the system's dark mode is followed"
    assert not wide, "nothing runs out of the page"


def _report(folder: Path) -> bytes:

    flow = Flow.model_validate(
        {
            "name": "page-flow",
            "version": "1.0.0",
            "tasks": [{"id": "only", "uses": "pkg:text/template@1.0.0"}],
        }
    )
    when = "2026-01-01T00:00:00.000Z"
    claim = Claim(
        run_id="run-1",
        flow=flow.name,
        flow_digest=flow_digest(flow),
        step="only",
        uses="pkg:text/template@1.0.0",
        status="done",
        attempts=1,
        started_at=when,
        finished_at=when,
        duration_ms=12,
        config_digest=f"sha256:{1:064x}",
        output=OutputRef(digest=f"sha256:{2:064x}", media_type="text/plain", size=3),
        cost_usd="0.25",
    )
    make_key(folder / "keys")
    record = RunRecord(
        run_id="run-1",
        status="succeeded",
        started_at=when,
        finished_at=when,
        flow_json=flow_json(flow),
        flow_digest=flow_digest(flow),
        claims=(claim_bytes(claim),),
        decisions={"allow": True, "verdicts": []},
        sbom=b'{"bomFormat":"CycloneDX","specVersion":"1.6"}',
        slos={},
        cost_report={"total_usd": "0.25", "by_step": [{"step": "only", "total_usd": "0.25"}]},
        warnings=(HOSTILE,),
    )
    with zipfile.ZipFile(io.BytesIO(build_bundle(record, load_signer(folder / "keys")))) as bundle:
        return bundle.read("report.html")
