"""Health, metrics, the place of the UI, the access log."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest
from api_support import Served
from starlette.requests import Request

from maestro_dagster.api import access, health
from maestro_dagster.api.access import AccessLog
from maestro_dagster.api.health import ready_endpoint
from maestro_dagster.project.backend import Backend


def test_health_and_readiness(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)
    assert served.call("GET", "/healthz").form == {"status": "ok"}
    ready = served.call("GET", "/readyz")
    assert (ready.status, ready.form["ready"], ready.form["ui"]) == (200, True, "loading")
    served.ready = False
    waiting = served.call("GET", "/readyz")
    assert (waiting.status, waiting.form["checks"]) == (
        503,
        {"deliveries": False, "inbox": False, "loop": True},
    )


def test_looks_that_last_do_not_take_the_threads_of_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def checks() -> dict[str, bool]:
        calls.append(time.monotonic())
        time.sleep(0.5)
        return {"deliveries": True, "inbox": False, "loop": True}

    backend = Backend(
        receive=lambda *_: pytest.fail("no delivery comes"),
        accept=lambda _: (),
        metrics=bytes,
        checks=checks,
        log=tmp_path / "log",
    )
    answer = ready_endpoint(backend, lambda: "off")

    async def act() -> list[int]:
        found = await asyncio.gather(*(answer(Request({"type": "http"})) for _ in range(100)))
        found.append(await answer(Request({"type": "http"})))
        assert len(calls) == 1  # of the hundred at once, good for the one soon after them
        monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)
        found.append(await answer(Request({"type": "http"})))
        return [one.status_code for one in found]

    assert asyncio.run(act()) == [HTTPStatus.OK] * 102
    assert len(calls) == 2


def test_the_ui_says_what_it_is_at(served: Served) -> None:
    loading = served.call("GET", "/dagster/runs")
    assert (loading.status, loading.form["code"]) == (503, "ui-loading")
    assert loading.headers["retry-after"] == "2"
    page = served.call("GET", "/dagster/runs", headers={"accept": "text/html,*/*"})
    assert page.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert b'http-equiv="refresh"' in page.body
    served.slot.failed = True
    assert served.call("GET", "/dagster/").form["code"] == "ui-failed"
    served.slot._wanted = False
    off = served.call("GET", "/dagster/")
    assert (off.status, off.form["code"]) == (404, "ui-off")


def test_the_root_leads_to_the_ui(served: Served) -> None:
    answer = served.call("GET", "/")
    assert (answer.status, answer.headers["location"]) == (307, "/dagster/")


def test_nothing_else_is_here(served: Served) -> None:
    for path in ("/webhooks", "/webhooks/", "/webhooks/a/b", "/nothing", "/dagsterx", "/metrics/"):
        answer = served.call("GET", path)
        assert (answer.status, answer.form["code"]) == (404, "not-found")
        assert answer.headers["content-type"] == "application/problem+json"
        assert "server" not in answer.headers


def test_scrapes_at_once_share_a_reading(served: Served) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: served.call("GET", "/metrics"), range(20)))
    assert {one.body for one in found} == {b"maestro_runs_total 3\n"}
    assert found[0].headers["content-type"].startswith("text/plain; version=0.0.4")
    assert served.scrapes < 10


def test_what_goes_well_beside_webhooks_is_not_worth_a_line(served: Served) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/dagster/?token=abc"):
        served.call("GET", path)
    served.push(("event-0001", "refs/heads/main"))
    assert [(line["path"], line["status"]) for line in served.lines(2)] == [
        ("/dagster/", 503),
        ("/webhooks/shop", 202),
    ]
    assert "abc" not in served.log.read_text()


def test_a_path_is_one_line_and_short(served: Served) -> None:
    served.call("GET", "/a%0A%22%7B" + "b" * 3000)
    (line,) = served.lines()
    assert line["path"].startswith('/a\n"{')
    assert len(line["path"]) == 500


def test_the_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    monkeypatch.setattr(access, "_LARGEST", 1000)
    log = AccessLog(tmp_path / "access.ndjson", lambda text: text)
    for number in range(200):
        log.write({"number": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.ndjson", "access.ndjson.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2200
    AccessLog(tmp_path / "no" / "folder", lambda text: text).write({})  # loses the line, raises nothing
