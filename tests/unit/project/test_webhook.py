"""The webhooks of a project: secrets and repositories as they are now, and no delivery lost."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.project.root import open_project
from maestro_dagster.project.webhook import Receiver, open_receiver

Sign = Callable[..., dict[str, str]]

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
FORGES = """\
repositories:
  - name: shop
    forge: github
    repository: acme/shop
    clone: https://forge.example/acme/shop.git
    secrets: [SHOP, SHOP_BEFORE]
"""


@pytest.fixture
def learned() -> list[str]:
    return []


@pytest.fixture
def receiver(root: Path, learned: list[str]) -> Receiver:
    (root / "resources").mkdir()
    (root / "resources" / "forges.yaml").write_text(FORGES)
    keep(root, "SHOP", "the first secret")
    return open_receiver(open_project(root, {}), learned.extend)


def keep(root: Path, name: str, text: str, mode: int = 0o600) -> None:
    path = root / ".maestro" / "secrets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make_push(number: int = 1) -> bytes:
    payload = {
        "ref": "refs/heads/main",
        "before": "a" * 40,
        "after": f"{number:040x}",
        "commits": [],
        "repository": {"full_name": "acme/shop"},
    }
    return json.dumps(payload).encode()


@pytest.fixture
def send(receiver: Receiver, sign_delivery: Sign) -> Callable[[str], str]:
    def send_push(secret: str, name: str = "shop") -> str:
        headers = {"X-GitHub-Event": "push", **sign_delivery("github", secret, make_push())}
        try:
            return receiver(name, headers, make_push()).events[0].name
        except EventError as error:
            return error.error_code

    return send_push


Send = Callable[..., str]


def test_a_secret_is_rotated_while_the_server_runs(root: Path, send: Send, learned: list[str]) -> None:
    assert send("the first secret") == "shop"
    keep(root, "SHOP_BEFORE", "the first secret")
    keep(root, "SHOP", "the second secret")
    assert send("the first secret") == send("the second secret") == "shop"
    (root / ".maestro" / "secrets" / "SHOP_BEFORE").unlink()
    assert send("the first secret") == "webhook-signature"
    assert send("the second secret") == "shop"
    assert learned == ["the first secret", "the second secret"], "each once, before it is used"


def test_a_secret_of_the_environment_counts(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_SECRET_SHOP_BEFORE", "of the environment")
    assert send("of the environment") == "shop"


def test_a_secret_that_others_may_read_is_none(root: Path, send: Send) -> None:
    keep(root, "SHOP", "the first secret", 0o644)
    assert send("the first secret") == "webhook-secret-unreadable"


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_what_a_secret_that_cannot_be_read_signed_is_asked_for_again(
    root: Path, receiver: Receiver, sign_delivery: Sign, mode: int
) -> None:
    """A refusal is for good; that the secret is not usable is ours to repair."""
    keep(root, "SHOP_BEFORE", "the second secret", mode)
    if mode == 0o600:
        (root / ".maestro/secrets/SHOP_BEFORE").write_bytes(b"\xff\xfe")
    headers = {"X-GitHub-Event": "push", **sign_delivery("github", "the second secret", make_push())}
    with pytest.raises(EventError) as caught:
        receiver("shop", headers, make_push())
    assert caught.value.error_code == "webhook-secret-unreadable"
    assert caught.value.place == str(root / ".maestro/secrets/SHOP_BEFORE")
    assert "a secret" in caught.value.fact
    assert "second" not in str(caught.value)
    first = {**headers, **sign_delivery("github", "the first secret", make_push())}
    assert receiver("shop", first, make_push()).events, "the other one goes on"
    with pytest.raises(EventError) as caught:
        receiver("shop", {"X-GitHub-Event": "push"}, make_push())
    assert caught.value.error_code == "webhook-unsigned", "nothing to check"


def test_a_repository_is_known_as_soon_as_it_is_in_the_file(root: Path, send: Send) -> None:
    path = root / "resources" / "forges.yaml"
    assert send("the first secret", "other") == "webhook-unknown"
    path.write_text(FORGES.replace("name: shop", "name: other"))
    assert send("the first secret", "other") == "other"
    assert send("the first secret") == "webhook-unknown"
    path.write_text("repositories: [")
    assert send("the first secret", "other") == "forges-invalid"


def test_a_file_that_vanished_is_ours_to_repair(root: Path, send: Send) -> None:
    path = root / "resources" / "forges.yaml"
    path.unlink()  # before the first delivery: it was there when the server began
    assert send("the first secret") == "forges-missing"
    path.write_text(FORGES)
    assert send("the first secret") == "shop"
    path.unlink()
    assert send("the first secret") == "forges-missing"


def test_where_no_file_ever_was_no_repository_is_known(root: Path, sign_delivery: Sign) -> None:
    receiver = open_receiver(open_project(root, {}), lambda _: None)
    headers = {"X-GitHub-Event": "push", **sign_delivery("github", "the first secret", make_push())}
    with pytest.raises(EventError) as caught:
        receiver("shop", headers, make_push())
    assert caught.value.error_code == "webhook-unknown"


def test_between_damaged_deliveries_none_is_lost(
    root: Path, receiver: Receiver, sign_delivery: Sign, tmp_path: Path
) -> None:
    """Each honest one comes twice, after a damaged and a forged one; the inbox has it once."""
    chance = random.Random(4713)
    inbox = Inbox(tmp_path / "inbox", tmp_path / "inbox.sqlite")
    wanted = 10_000 if SOAK else 200
    for number in range(1, wanted + 1):
        body = make_push(number)
        headers = {"X-GitHub-Event": "push", **sign_delivery("github", "the first secret", body)}
        damaged = bytearray(body)
        damaged[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        forged = {**headers, **sign_delivery("github", "another secret", body)}
        for told, data in ((headers, bytes(damaged)), (forged, body)):
            with pytest.raises(EventError) as caught:
                receiver("shop", told, data)
            assert caught.value.error_code == "webhook-signature"
        for again in (False, True):
            new = inbox.accept(receiver("shop", headers, body).events)
            assert new == (not again,)
    pending = inbox.pending(wanted + 1)
    assert sorted(int(event.after, 16) for event in pending) == list(range(1, wanted + 1))
    inbox.close()
