"""What of Dagster's own server is closed, and how it refuses: the real one, without a code location."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from api_support import Served

from maestro_dagster.api.server import open_ui

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("ui")
    (folder / "workspace.yaml").write_text("load_from: []\n")
    home = folder / "home"
    home.mkdir()
    with ExitStack() as stack:
        yield stack.enter_context(open_ui(home, folder / "workspace.yaml"))


@pytest.fixture
def ui(served: Served, pages: Any) -> Served:
    served.slot.app = pages
    return served


def ask(ui: Served, query: str) -> object:
    answer = ui.call("POST", "/dagster/graphql", json.dumps({"query": query}).encode(), JSON)
    return answer.form


@pytest.mark.parametrize("kind", ["materialization", "check", "observation"])
def test_nobody_reports_what_no_run_has_made(ui: Served, kind: str) -> None:
    body = json.dumps({"check_name": "x", "passed": True, "metadata": {"a": 1}}).encode()
    for name in ("shop", "shop/wheel", ""):
        answer = ui.call("POST", f"/dagster/report_asset_{kind}/{name}", body, JSON)
        assert (answer.status, answer.form["code"]) == (405, "method-not-allowed")
    assert ask(ui, "{assetRecordsOrError{... on AssetRecordConnection{assets{id}}}}") == {
        "data": {"assetRecordsOrError": {"assets": []}}
    }


def test_nor_by_graphql(ui: Served) -> None:
    found = ask(
        ui,
        'mutation{reportRunlessAssetEvents(eventParams:{eventType:ASSET_MATERIALIZATION,assetKey:{path:["shop"]}})'
        "{__typename ... on UnauthorizedError{message}}}",
    )
    told = {"__typename": "UnauthorizedError", "message": "events of assets come from runs only"}
    assert found == {"data": {"reportRunlessAssetEvents": told}}
    assert ask(ui, "{assetRecordsOrError{... on AssetRecordConnection{assets{id}}}}") == {
        "data": {"assetRecordsOrError": {"assets": []}}
    }


def test_pages_and_queries_are_served(ui: Served) -> None:
    assert ui.call("GET", "/dagster/runs").body.startswith(b"<!DOCTYPE html>")
    assert ask(ui, "{version}")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/dagster/download_debug/x", 404, "not-found"),
        ("GET", "/dagster/logs/..%2f..%2fetc%2fpasswd", 404, "not-found"),
        ("GET", "/dagster/logs/a/b/c.out", 404, "not-found"),
        ("GET", "/dagster/logs/x", 404, "not-found"),
        ("GET", "/dagster/vendor/none.css", 404, "not-found"),
        ("POST", "/dagster/runs", 405, "method-not-allowed"),
        ("POST", "/dagster/graphql", 400, "http"),
    ],
)
def test_every_refusal_is_a_problem(ui: Served, method: str, path: str, status: int, code: str) -> None:
    answer = ui.call(method, path, b"{}" if method == "POST" else None, JSON if method == "POST" else {})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.form["code"] == code
    assert Path("/etc/passwd").read_bytes()[:20] not in answer.body


def test_an_error_of_a_query_stays_one_of_graphql(ui: Served) -> None:
    answer = ui.call("POST", "/dagster/graphql", b'{"query": "{nothing}"}', JSON)
    assert answer.form["errors"]
    assert answer.status in {HTTPStatus.OK, HTTPStatus.BAD_REQUEST}
