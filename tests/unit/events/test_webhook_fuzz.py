"""Bodies that were damaged on purpose: none that is not signed is taken, and none breaks the reader."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.interface import check_event
from maestro_dagster.events.webhook import receive

Sign = Callable[..., dict[str, str]]

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
BODIES = 100_000 if SOAK else 10_000
CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("deliveries.json").read_text())
SECRET = base64.b64encode(b"It's a secret, to all of us.").decode()
NOW = 1_700_000_000.0
SHOP = ForgeRepository("shop", "github", "acme/shop", "https://forge.example/acme/shop.git", ("SHOP",))
# Whoever has the password of these can send any body.
PASSWORDS = {"gitlab", "azure-devops"}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 10**400, 1.5, 1e308, "", " ", "\x00", "\udc80", "\U0001f600",
    "refs/heads/", "refs/heads/x..y", "../../etc/passwd", "--exec=x", "a" * 3000, "0" * 40, "f" * 64,
    "F" * 40, [], [[]], [None], [{}], {}, {"": {}}, {"id": []}, [1] * 100,
)  # fmt: skip


def damage_bytes(body: bytes, chance: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
            case 1:
                del data[at : at + chance.randint(1, 40)]
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                data[at:at] = data[: chance.randint(0, 200)]
    return bytes(data)


def damage_values(payload: Any, chance: random.Random) -> Any:
    """Puts something else into a few places of the payload."""
    damaged = copy.deepcopy(payload)
    for _ in range(chance.randint(1, 3)):
        places = list(places_in(damaged))
        if not places:
            break
        holder, key = chance.choice(places)
        match chance.randrange(3):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1:
                donor, name = chance.choice(places)
                holder[key] = copy.deepcopy(donor[name])
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return damaged


def places_in(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield value, key
        yield from places_in(child)


def take(case: dict[str, Any], headers: dict[str, str], body: bytes) -> str:
    """What became of it: the code of the refusal, or `taken`. Any other exception is a failure."""
    forge = replace(SHOP, forge=case["forge"])
    try:
        delivery = receive(forge, [SECRET], {**case["headers"], **headers}, body, NOW)
    except EventError as error:
        return error.error_code
    for event in delivery.events:
        check_event(event)
        event.ref.encode()
        json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False).encode()
    return "taken"


@pytest.mark.timeout(600)
def test_damaged_bodies(sign_delivery: Sign) -> None:
    seen = damage_all(CASES, BODIES, random.Random(4711), sign_delivery)
    assert seen["taken"] > BODIES // 10
    assert seen["webhook-malformed"] > BODIES // 10


@pytest.mark.timeout(1200)
def test_damaged_bodies_of_the_corpus(corpus: Path, sign_delivery: Sign) -> None:
    """Real ones are larger, and full of what nobody reads."""
    folder = corpus / "01-webhooks"
    if not (folder / "expected.json").is_file():
        pytest.skip("this corpus has no webhooks")
    cases = [
        {
            "forge": "azure-devops" if case["provider"] == "azuredevops" else case["provider"],
            "headers": case["headers"],
            "payload": json.loads((folder / case["file"]).read_bytes()),
        }
        for case in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["cases"]
        if (folder / case["file"]).is_file()
    ]
    seen = damage_all(cases, BODIES // 10, random.Random(4714), sign_delivery)
    assert seen["webhook-other-repository"] > BODIES // 100


def damage_all(
    cases: list[dict[str, Any]], bodies: int, chance: random.Random, sign_delivery: Sign
) -> dict[str, int]:
    """What became of so many damaged bodies that somebody signed; those that nobody did are refused."""
    seen: dict[str, int] = {}
    for number in range(bodies):
        case = chance.choice(cases)
        body = json.dumps(case["payload"]).encode()
        signed = {"now": NOW} if case["forge"] == "standard" else {}
        if number % 2:
            damaged = damage_bytes(body, chance)
        else:
            damaged = json.dumps(damage_values(case["payload"], chance)).encode()
        honest = sign_delivery(case["forge"], SECRET, body, **signed)
        if damaged != body and case["forge"] not in PASSWORDS:
            assert take(case, honest, damaged) == "webhook-signature"
        assert take(case, {}, damaged) == "webhook-unsigned"
        # The forge itself, or who has its secret, may send anything; the reader stands that too.
        told = take(case, sign_delivery(case["forge"], SECRET, damaged, **signed), damaged)
        seen[told] = seen.get(told, 0) + 1
    assert set(seen) <= {
        "taken", "webhook-malformed", "webhook-unsupported", "webhook-other-repository"
    }  # fmt: skip
    return seen


def test_damaged_headers(sign_delivery: Sign) -> None:
    """A signature that was damaged is none; other headers may say anything."""
    chance = random.Random(4712)
    for _ in range(BODIES // 5):
        case = chance.choice(CASES)
        body = json.dumps(case["payload"]).encode()
        signed = {"now": NOW} if case["forge"] == "standard" else {}
        honest = sign_delivery(case["forge"], SECRET, body, **signed)
        name = chance.choice(list(honest))
        damaged = damage_bytes(honest[name].encode(), chance).decode("latin-1")
        if means_the_same(damaged, honest[name]):
            continue
        told = take(case, {**honest, name: damaged}, body)
        assert told in {"webhook-signature", "webhook-unsigned"}, (case["name"], name, damaged)
        free = {
            key: damage_bytes(value.encode(), chance).decode("latin-1")
            for key, value in case["headers"].items()
        }
        take({**case, "headers": free}, honest, body)


def means_the_same(damaged: str, honest: str) -> bool:
    """Blanks around it, capitals of hex and of `Basic`, the user's name in front of the password."""
    if damaged.strip().lower() == honest.strip().lower():
        return True
    scheme, _, coded = damaged.strip().partition(" ")
    try:
        pair = base64.b64decode(coded.strip(), validate=True)
    except ValueError:
        return SECRET in damaged and damaged.count(",") >= 1  # one signature of several
    return scheme.lower() == "basic" and pair.partition(b":")[2] == SECRET.encode()
