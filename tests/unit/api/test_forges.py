"""Deliveries of seven forges, over HTTP, into the inbox of a project: the whole way in."""

from __future__ import annotations

import base64
import http.client
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from maestro_dagster.api.app import UiSlot, build_app
from maestro_dagster.api.process import configure, listen
from maestro_dagster.events.forge import FORGES
from maestro_dagster.project.backend import Backend, open_backend
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.root import open_project

Sign = Callable[..., dict[str, str]]

DELIVERIES = Path(__file__).parents[1] / "events" / "deliveries.json"
CASES: list[dict[str, Any]] = json.loads(DELIVERIES.read_text())
PUSH = CASES[0]
SECRET = base64.b64encode(b"It's a secret, to all of us.").decode()


@dataclass
class Door:
    root: Path
    backend: Backend
    port: int = 0

    def post(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", f"/webhooks/{name}", body, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def keep(self, secret: str, mode: int = 0o600) -> None:
        path = self.root / ".maestro" / "secrets" / "SHOP"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secret)
        path.chmod(mode)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    (tmp_path / "resources").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.maestro]\n')
    rows = [
        {
            "name": forge,
            "forge": forge,
            "repository": "acme/shop",
            "clone": "/srv/shop.git",
            "secrets": ["SHOP"],
        }
        for forge in FORGES
    ]
    (tmp_path / "resources" / "forges.yaml").write_text(json.dumps({"repositories": rows}))
    found = Door(tmp_path, open_backend(open_project(tmp_path, {})))
    found.keep(SECRET)
    listener = listen("127.0.0.1", 0)
    found.port = listener.getsockname()[1]
    server = uvicorn.Server(configure(build_app(found.backend, UiSlot(wanted=False))))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(20)


def test_each_delivery_of_each_forge_comes_in_once(door: Door, sign_delivery: Sign) -> None:
    for number, case in enumerate(CASES):
        body = json.dumps(case["payload"]).encode()
        more: dict[str, Any] = {}
        if case["forge"] == "standard":
            more = {"now": time.time(), "number": f"msg_{number}"}
        headers = {**case["headers"], **sign_delivery(case["forge"], SECRET, body, **more)}
        if case["forge"] == "gitlab":
            headers["Idempotency-Key"] = f"key-{number}"
        for again in (False, True):
            status, told = door.post(case["forge"], body, headers)
            assert status == HTTPStatus.ACCEPTED, (case["name"], told)
            assert [event["new"] for event in told["events"]] == [not again] * len(case["events"])
            assert [event["ref"] for event in told["events"]] == [event["ref"] for event in case["events"]]
    inbox = open_inbox(open_project(door.root, {}))
    kinds = [event.kind for event in inbox.pending()]
    inbox.close()
    assert kinds == [event["kind"] for case in CASES for event in case["events"]]


@pytest.mark.parametrize(
    ("name", "change", "status", "code"),
    [
        ("github", {"X-Hub-Signature-256": ""}, 401, "webhook-unsigned"),
        ("github", {"X-Hub-Signature-256": "sha256=" + "0" * 64}, 401, "webhook-signature"),
        ("github", {"X-Hub-Signature-256": "sha256=é"}, 401, "webhook-signature"),
        ("nobody", {}, 404, "webhook-unknown"),
        ("github%2f..", {}, 404, "not-found"),
        ("gitea", {"X-Gitea-Event": "push"}, 401, "webhook-unsigned"),
    ],
)
def test_what_is_not_taken_is_a_problem_with_a_code(
    name: str, change: dict[str, str], status: int, code: str, door: Door, sign_delivery: Sign
) -> None:
    body = json.dumps(PUSH["payload"]).encode()
    headers = {**PUSH["headers"], **sign_delivery("github", SECRET, body), **change}
    if name == "gitea":
        del headers["X-Hub-Signature-256"]
    found = door.post(name, body, headers)
    assert (found[0], found[1]["code"]) == (status, code)
    assert SECRET not in json.dumps(found[1])


def test_what_is_signed_may_still_be_refused(door: Door, sign_delivery: Sign) -> None:
    def send(payload: Any, event: str = "push") -> tuple[int, str]:
        body = json.dumps(payload).encode()
        status, told = door.post(
            "github", body, {"X-GitHub-Event": event, **sign_delivery("github", SECRET, body)}
        )
        return status, told.get("code") or told["ignored"]

    other = {**PUSH["payload"], "repository": {"full_name": "acme/other"}}
    assert send(other) == (403, "webhook-other-repository")
    assert send({**PUSH["payload"], "ref": "../../x"}) == (400, "webhook-malformed")
    assert send([]) == (400, "webhook-malformed")
    status, ignored = send({"repository": {"full_name": "acme/shop"}}, "issues")
    assert status == HTTPStatus.ACCEPTED
    assert "'issues'" in ignored


def test_what_the_operator_must_repair_asks_the_forge_to_come_again(door: Door, sign_delivery: Sign) -> None:
    body = json.dumps(PUSH["payload"]).encode()
    headers = {**PUSH["headers"], **sign_delivery("github", SECRET, body)}
    door.keep(SECRET, 0o644)
    status, told = door.post("github", body, headers)
    assert (status, told["code"]) == (503, "webhook-secret-unreadable")
    assert "SHOP" not in json.dumps(told), "the name of a secret is nobody's business"
    access = door.root / ".maestro" / "logs" / "access.ndjson"
    end = time.monotonic() + 20
    while not access.exists() and time.monotonic() < end:  # it is written after the answer
        time.sleep(0.01)
    assert "may be read by others" in json.loads(access.read_text().splitlines()[-1])["error"]
    door.keep(SECRET)
    forges = door.root / "resources" / "forges.yaml"
    whole = forges.read_text()
    forges.write_text("repositories: [")
    assert door.post("github", body, headers)[0] == HTTPStatus.SERVICE_UNAVAILABLE
    forges.unlink()
    status, told = door.post("github", body, headers)
    assert (status, told["code"]) == (503, "forges-missing")
    forges.write_text(whole)
    assert door.post("github", body, headers)[0] == HTTPStatus.ACCEPTED


def test_forges_that_cannot_be_read_are_told_before_a_delivery_comes(door: Door, sign_delivery: Sign) -> None:
    body = json.dumps(PUSH["payload"]).encode()
    headers = {**PUSH["headers"], **sign_delivery("github", SECRET, body)}
    assert door.post("github", body, headers)[0] == HTTPStatus.ACCEPTED
    assert door.backend.checks()["deliveries"]
    path = door.root / "resources" / "forges.yaml"
    whole = path.read_text()
    path.write_text("repositories: [\n")
    assert door.post("github", body, headers)[0] == HTTPStatus.SERVICE_UNAVAILABLE
    held = door.backend.checks()
    assert (held["deliveries"], held["forges"]) == (False, False)
    path.write_text(whole)
    assert door.backend.checks()["deliveries"]


def test_a_full_disk_is_told_before_a_delivery_comes(door: Door, sign_delivery: Sign) -> None:
    body = json.dumps(PUSH["payload"]).encode()
    headers = {**PUSH["headers"], **sign_delivery("github", SECRET, body)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))  # every write fails, as on a full disk
        assert door.post("github", body, headers)[0] == HTTPStatus.SERVICE_UNAVAILABLE
        assert not door.backend.checks()["deliveries"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert door.backend.checks()["deliveries"]
    assert not list((door.root / ".maestro" / "inbox").rglob("*.probe"))
    assert door.post("github", body, headers)[0] == HTTPStatus.ACCEPTED
