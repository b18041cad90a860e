"""Deliveries of each kind of forge: what they say, what is refused, and what counts as the same one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.interface import MAX_FACTS
from maestro_dagster.events.source import read_event_facts
from maestro_dagster.events.webhook import MAX_BODY, Delivery, receive

Sign = Callable[..., dict[str, str]]

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("deliveries.json").read_text())
BY_NAME = {case["name"]: case for case in CASES}
SECRET = base64.b64encode(b"It's a secret, to all of us.").decode()  # a key of Standard Webhooks as well
NOW = 1_700_000_000.0
SHOP = ForgeRepository("shop", "github", "acme/shop", "https://forge.example/acme/shop.git", ("SHOP",))
A, B, ZEROS = "a" * 40, "b" * 40, "0" * 40


@pytest.fixture
def send(sign_delivery: Sign) -> Callable[..., Delivery]:
    def send_case(
        case: dict[str, Any], body: bytes | None = None, forge: ForgeRepository = SHOP, **headers: str
    ) -> Delivery:
        data = json.dumps(case["payload"]).encode() if body is None else body
        signed = {"now": NOW} if case["forge"] == "standard" else {}
        told = {**case["headers"], **sign_delivery(case["forge"], SECRET, data, **signed), **headers}
        return receive(replace(forge, forge=case["forge"]), [SECRET], told, data, NOW)

    return send_case


Send = Callable[..., Delivery]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(EventError) as caught:
        call()
    assert SECRET not in str(caught.value)
    return caught.value.error_code


@pytest.mark.parametrize("case", CASES, ids=BY_NAME)
def test_a_delivery_is_read(case: dict[str, Any], send: Send) -> None:
    delivery = send(case)
    told = [
        {
            "kind": event.kind,
            "ref": event.ref,
            "before": event.before,
            "after": event.after,
            "facts": {key: event.facts.get(key) for key in wanted["facts"]},
        }
        for event, wanted in zip(delivery.events, case["events"], strict=True)
    ]
    assert told == case["events"]
    for event in delivery.events:
        assert (event.name, event.repository, event.source) == ("shop", SHOP.clone, "webhook")
        assert event.facts["forge"] == case["forge"]
        assert event.received_at == NOW


@pytest.mark.parametrize("case", CASES, ids=BY_NAME)
def test_only_a_pull_request_has_a_number(case: dict[str, Any], send: Send) -> None:
    """What else a forge numbers (releases, pipelines, checks, pushes) is the fact `id`."""
    for event in send(case).events:
        assert (event.kind == "pr") == ("number" in event.facts)
        assert "number" in event.facts or "number" not in read_event_facts(event)


def test_an_event_that_comes_again_has_the_same_id_and_each_event_its_own(send: Send) -> None:
    ids: dict[str, str] = {}
    for case in CASES:
        first, again = send(case), send(case)
        assert [event.event_id for event in first.events] == [event.event_id for event in again.events]
        if case["forge"] not in {"gitlab", "standard"}:  # whose cases share one number
            ids |= {event.event_id: case["name"] for event in first.events}
    count = sum(len(case["events"]) for case in CASES if case["forge"] not in {"gitlab", "standard"})
    assert len(ids) == count


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("push", "X-GitHub-Delivery"),
        ("server push", "X-Request-Id"),
        ("bitbucket push of three refs", "X-Request-UUID"),
        ("gitea push, which may be forced", "X-Gitea-Delivery"),
    ],
)
def test_a_delivery_that_was_caught_is_no_new_one_under_another_number(
    name: str, header: str, send: Send
) -> None:
    case = BY_NAME[name]
    once, again = send(case), send(case, **{header: "00000000-0000-4000-8000-000000000000"})
    assert once.delivery_id != again.delivery_id
    assert [event.event_id for event in once.events] == [event.event_id for event in again.events]


def test_gitlab_sends_equal_bodies_for_a_move_there_and_back(send: Send) -> None:
    case = BY_NAME["gitlab push, which may be forced"]
    ids = {send(case, **{"Idempotency-Key": key}).events[0].event_id for key in ("one", "two", "two")}
    assert len(ids) == 2


def test_gitlab_before_17_has_no_number(send: Send) -> None:
    case = BY_NAME["gitlab push, which may be forced"]
    old = {**case, "headers": {"X-Gitlab-Event": "Push Hook"}}
    ids = [send(old, **{"X-Gitlab-Event-UUID": uuid}).events[0].event_id for uuid in ("one", "one", "two")]
    assert ids[0] == ids[1] != ids[2]


def test_the_same_delivery_is_another_event_for_another_repository(send: Send) -> None:
    case = BY_NAME["push"]
    other = send(case, forge=replace(SHOP, name="mirror"))
    assert other.events[0].event_id != send(case).events[0].event_id
    assert other.events[0].partition == "mirror@refs/heads/main"


NAMING = [case for case in CASES if case["events"] and "acme" in json.dumps(case["payload"])]


@pytest.mark.parametrize("case", NAMING, ids=lambda case: case["name"])
def test_a_delivery_of_another_repository_is_refused(case: dict[str, Any], send: Send) -> None:
    other = replace(SHOP, repository="acme/other")
    assert refusal(lambda: send(case, forge=other)) == "webhook-other-repository"


def test_names_of_repositories_are_compared_without_case(send: Send) -> None:
    assert send(BY_NAME["push"], forge=replace(SHOP, repository="Acme/Shop")).events


def test_a_repository_of_azure_may_be_named_without_its_project(send: Send) -> None:
    case = BY_NAME["azure push"]
    assert send(case, forge=replace(SHOP, repository="shop")).events
    assert refusal(lambda: send(case, forge=replace(SHOP, repository="sho"))) == "webhook-other-repository"


def test_a_push_that_names_no_repository_is_malformed(send: Send) -> None:
    case = BY_NAME["push"]
    payload = {key: value for key, value in case["payload"].items() if key != "repository"}
    assert refusal(lambda: send({**case, "payload": payload})) == "webhook-malformed"


@pytest.mark.parametrize(
    ("forge", "headers", "payload"),
    [
        ("github", {"X-GitHub-Event": "issues"}, {"repository": {"full_name": "acme/shop"}}),
        ("github", {}, {}),
        ("gitlab", {}, {"object_kind": "note"}),
        ("gitea", {"X-Gitea-Event": "wiki"}, {}),
        ("bitbucket", {"X-Event-Key": "issue:created"}, {}),
        ("bitbucket", {"X-Event-Key": "pullrequest:comment_created"}, {}),
        ("bitbucket-server", {"X-Event-Key": "repo:forked"}, {}),
        ("azure-devops", {}, {"eventType": "workitem.created"}),
        ("azure-devops", {}, {"eventType": "git.pullrequest.commented"}),
        ("standard", {}, {"type": "invoice.paid"}),
    ],
)
def test_a_kind_that_is_not_known_is_told_as_such(
    forge: str, headers: dict[str, str], payload: Any, send: Send
) -> None:
    case = {"forge": forge, "headers": headers, "payload": payload}
    assert refusal(lambda: send(case)) == "webhook-unsupported"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"push"',
        b"\xff\xfe{}",
        json.dumps({**BY_NAME["push"]["payload"], "forced": float("nan")}).encode(),
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_object_is_malformed(body: bytes, send: Send) -> None:
    assert refusal(lambda: send(BY_NAME["push"], body)) == "webhook-malformed"


def change(case: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**case, "payload": {**case["payload"], **fields}}


@pytest.mark.parametrize(
    "ref",
    [
        "main",
        "refs/heads/",
        "refs/",
        "refs/heads/a b",
        "refs/heads/a..b",
        "refs/heads/-x",
        "refs/heads/a\n",
        "refs/heads/\udc80",
        "refs/heads/x.lock",
        "refs/heads/a~1",
        "refs/heads/a//b",
        "refs/heads/.a",
        "refs/heads/a.",
        "refs/heads/@{x",
        "refs/heads/" + "x" * 2000,
        "--upload-pack=x",
        7,
        None,
        {},
    ],
)
def test_what_git_takes_for_no_ref_is_malformed(ref: Any, send: Send) -> None:
    assert refusal(lambda: send(change(BY_NAME["push"], ref=ref))) == "webhook-malformed"


@pytest.mark.parametrize("sha", ["", "b" * 39, "B" * 40, "b" * 64, "HEAD", None, 7, ["b" * 40]])
def test_what_is_no_object_name_is_malformed(sha: Any, send: Send) -> None:
    assert refusal(lambda: send(change(BY_NAME["push"], after=sha))) == "webhook-malformed"
    assert refusal(lambda: send(change(BY_NAME["push"], before=ZEROS, after=ZEROS))) == "webhook-malformed"


def test_a_delivery_that_is_too_large_is_not_even_verified(send: Send) -> None:
    assert refusal(lambda: receive(SHOP, [], {}, bytes(MAX_BODY + 1), NOW)) == "webhook-too-large"


def test_a_form_is_read_as_well(send: Send) -> None:
    case = BY_NAME["push"]
    body = urlencode({"payload": json.dumps(case["payload"])}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert send(case, body, **form).events[0].after == B
    for wrong in (b"payload=%7B", b"other=1", b"=", b"&&", b"payload"):
        assert refusal(lambda wrong=wrong: send(case, wrong, **form)) == "webhook-malformed"


def test_headers_may_be_written_in_any_case(send: Send, sign_delivery: Sign) -> None:
    body = json.dumps(BY_NAME["push"]["payload"]).encode()
    headers = {**BY_NAME["push"]["headers"], **sign_delivery("github", SECRET, body)}
    for spell in (str.lower, str.upper):
        told = {spell(name): value for name, value in headers.items()}
        assert receive(SHOP, [SECRET], told, body, NOW).events


def test_texts_from_outside_are_short_and_clean(send: Send) -> None:
    case = BY_NAME["pull request"]
    request = {
        **case["payload"]["pull_request"],
        "title": "a\x00\x1b[31m\ud800" + "\U0001f600" * 9999,
        "labels": [{"name": "\x07l" + "ä" * 300} for _ in range(500)] + [None, {"name": 7}],
        "html_url": "https://forge.example/" + "ü" * 9999,
    }
    event = send(change(case, pull_request=request)).events[0]
    text = json.dumps(dict(event.facts), ensure_ascii=False)
    assert len(text.encode()) <= MAX_FACTS
    assert event.facts["title"].startswith("a [31m")
    assert not any(
        ord(letter) < 32 for value in (*event.facts["labels"], event.facts["title"]) for letter in value
    )


def test_a_push_of_very_many_files_leaves_them_to_the_repository(send: Send) -> None:
    commits = [{"added": [f"src/{number}/file" for number in range(5000)], "modified": [], "removed": []}]
    assert send(change(BY_NAME["push"], commits=commits)).events[0].facts["changed_paths"] is None
    odd = [{"added": ["a\nb"], "modified": [], "removed": []}]
    assert send(change(BY_NAME["push"], commits=odd)).events[0].facts["changed_paths"] is None
    hidden = [{"added": ["x"], "modified": None, "removed": []}]
    assert send(change(BY_NAME["push"], commits=hidden)).events[0].facts["changed_paths"] is None


def test_more_refs_than_a_push_has_are_refused_and_many_are_not(send: Send) -> None:
    case = BY_NAME["server push"]
    row = case["payload"]["changes"][1]
    many = [{**row, "refId": f"refs/tags/v{number}"} for number in range(5000)]
    events = send(change(case, changes=many)).events
    assert len({event.event_id for event in events}) == 5000
    assert refusal(lambda: send(change(case, changes=[*many, row]))) == "webhook-malformed"


@pytest.mark.parametrize("number", [0, -1, True, "7", 2**63, None, 1.5])
def test_a_number_that_is_none_is_malformed(number: Any, send: Send) -> None:
    case = BY_NAME["pull request"]
    request = {**case["payload"]["pull_request"], "number": number}
    assert refusal(lambda: send(change(case, pull_request=request))) == "webhook-malformed"
