"""Deliveries that forges sent to others: each is read, and says what its sender says that it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events import webhook_bitbucket_server
from maestro_dagster.events.filter import flow_wants
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.interface import RepositoryEvent, check_event
from maestro_dagster.events.webhook import Delivery, receive

Sign = Callable[[str, str, bytes], dict[str, str]]
Case = dict[str, Any]

SECRET = "It's a Secret to Everybody"
FORGE = ForgeRepository("shop", "github", "acme/shop", "https://forge.example/acme/shop.git", ("SHOP",))
FORGES = {"azuredevops": "azure-devops", "azure": "azure-devops", "forgejo": "gitea"}
SCHEMES = {  # by how their names start
    "github": "github",
    "gitlab": "gitlab",
    "gitea": "gitea",
    "forgejo": "gitea",
    "bitbucket-server": "bitbucket-server",
    "bitbucket": "bitbucket",
    "azure": "azure-devops",
    "standard": "standard",
}
REFUSED = {"webhook-unsigned", "webhook-signature", "webhook-stale", "webhook-secret-missing"}
# What the readers say in one way for all forges.
ACTIONS = {
    "open": "opened",
    "reopen": "reopened",
    "close": "closed",
    "merge": "closed",
    "synchronized": "synchronize",
    "label_updated": "labeled",
    "label_cleared": "unlabeled",
    "create": "published",
}
FACTS = {
    "default_branch": "default_branch",
    "sender": "actor",
    "forced": "forced",
    "commits": "commits",
    "head_ref": "head_ref",
    "head_branch": "head_ref",
    "source_branch": "head_ref",
    "source": "head_ref",
    "base_ref": "base_ref",
    "target_branch": "base_ref",
    "destination": "base_ref",
    "target": "base_ref",
    "draft": "draft",
    "merged": "merged",
    "head_repo": "head_repository",
    "tag": "tag",
    "prerelease": "prerelease",
    "status": "status",
    "conclusion": "conclusion",
    "run_attempt": "attempt",
}
# What a forge numbers: only of a pull request is it the fact `number`.
NUMBERS = ("number", "pull_request", "id")
OF_EVENT: dict[str, Callable[[RepositoryEvent], Any]] = {
    "before": lambda event: event.before,
    "base_sha": lambda event: event.before,
    "after": lambda event: event.after,
    "head_sha": lambda event: event.after,
    "last_commit": lambda event: event.after,
    "created": lambda event: event.created,
    "deleted": lambda event: event.kind == "delete",
    "name": lambda event: event.branch,
    "kind": lambda event: "tag" if event.is_tag else "branch",
    "ref_type": lambda event: "tag" if event.is_tag else "branch",
}


def read_cases(folder: Path) -> list[tuple[str, Case, bytes]]:
    index = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    found = []
    for case in index["cases"]:
        path = folder / case["file"]
        if path.is_file():
            found.append((FORGES.get(case["provider"], case["provider"]), case, path.read_bytes()))
    return found


@pytest.fixture
def folder(corpus: Path) -> Path:
    found = corpus / "01-webhooks"
    if not (found / "expected.json").is_file():
        pytest.skip("this corpus has no webhooks")
    return found


def test_every_payload_of_the_corpus_is_read(folder: Path, sign_delivery: Sign) -> None:
    cases = read_cases(folder)
    assert cases
    wrong = [
        f"{case['file']}: {fault}"
        for forge, case, body in cases
        for fault in faults_of(forge, case, body, sign_delivery)
    ]
    assert wrong == []


def faults_of(forge: str, case: Case, body: bytes, sign_delivery: Sign) -> Iterator[str]:
    headers = {**case["headers"], **sign_delivery(forge, SECRET, body)}
    expected = case["expected"]
    repository = replace(FORGE, forge=forge, repository=name_in(forge, expected, body))
    try:
        delivery = receive(repository, [SECRET], headers, body, 1.7e9)
    except EventError as error:
        if error.error_code != "webhook-unsupported":
            yield str(error)
        return
    for event in delivery.events:
        check_event(event)
        if event.kind == "delete" and flow_wants(ON_PUSH, event, ()):
            yield "a deleted ref starts a run"
    yield from compare_names(delivery, expected)
    if len(delivery.events) == 1:
        yield from compare_event(delivery.events[0], expected)
    if changes := expected.get("changes") or expected.get("refUpdates"):
        yield from compare_changes(delivery.events, changes)


ON_PUSH: Any = SimpleNamespace(
    on=[
        SimpleNamespace(event=event, branches=(), paths=(), labels=(), actions=(), conclusions=(), forks=True)
        for event in ("push", "tag", "pr", "release")
    ]
)


def name_in(forge: str, expected: Case, body: bytes) -> str:
    """What an operator writes for the repository of a case."""
    if forge == "bitbucket-server":
        return webhook_bitbucket_server.name_repository(json.loads(body)) or "any/any"
    return str(expected.get("repository") or expected.get("project") or "any/any")


def compare_names(delivery: Delivery, expected: Case) -> Iterator[str]:
    for key in ("event", "object_kind", "eventType", "eventKey"):
        if key in expected and expected[key] != delivery.event:
            yield f"{key} is {delivery.event}"
    named = expected.get("repository") or expected.get("project")
    if named and delivery.repository and not delivery.repository.endswith(str(named)):
        yield f"the repository is {delivery.repository}"


def compare_event(event: RepositoryEvent, expected: Case) -> Iterator[str]:
    named = FACTS | dict.fromkeys(NUMBERS, "number" if event.kind == "pr" else "id")
    for key, wanted in expected.items():
        if key in named and event.facts.get(named[key]) != wanted:
            yield f"{key} is {event.facts.get(named[key])!r}, not {wanted!r}"
        elif key in OF_EVENT and OF_EVENT[key](event) != wanted:
            yield f"{key} is {OF_EVENT[key](event)!r}, not {wanted!r}"
    action = expected.get("action")
    if action is not None and event.facts.get("action") != ACTIONS.get(action, action):
        yield f"action is {event.facts.get('action')!r}"
    if "ref" in expected and expected["ref"] not in (event.ref, event.branch):
        yield f"ref is {event.ref}"
    yield from compare_paths(event, expected)


def compare_paths(event: RepositoryEvent, expected: Case) -> Iterator[str]:
    """None says `unknown`, which is right where the listed commits do not tell everything."""
    if "changed_paths" not in expected:
        return
    told, wanted = event.facts.get("changed_paths"), sorted(expected["changed_paths"])
    complete = expected.get("created") or (event.facts["forge"] == "github" and not expected.get("forced"))
    if told is None and wanted and complete:
        yield "changed_paths is unknown"
    if told is not None and told != wanted:
        yield f"changed_paths is {told}"


def compare_changes(events: tuple[RepositoryEvent, ...], changes: list[Case]) -> Iterator[str]:
    if len(events) != len(changes):
        yield f"{len(events)} events for {len(changes)} changes"
        return
    for event, change in zip(events, changes, strict=True):
        name = change.get("ref") or change["name"]
        moves = (("before", "old_hash", "from", "oldObjectId"), ("after", "new_hash", "to", "newObjectId"))
        if name not in (event.ref, event.branch):
            yield f"ref is {event.ref}, not {name}"
        for attribute, *keys in moves:
            wanted = next((change[key] for key in keys if change.get(key)), "0" * 40)
            if getattr(event, attribute) != wanted:
                yield f"{attribute} of {name} is {getattr(event, attribute)}"


def test_every_signature_vector_gets_its_verdict(folder: Path) -> None:
    path = folder / "signature_vectors.json"
    if not path.is_file():
        pytest.skip("this corpus has no signature vectors")
    vectors = json.loads(path.read_text(encoding="utf-8"))["vectors"]
    assert vectors
    wrong = [
        vector["name"]
        for vector in vectors
        if not vector.get("optional") and is_accepted(vector) != (vector["verdict"] == "accept")
    ]
    assert wrong == []


def is_accepted(vector: Case) -> bool:
    """Whether the signature holds; what such a body says is another question."""
    scheme = vector["scheme"]
    forge = replace(FORGE, forge=next(SCHEMES[start] for start in SCHEMES if scheme.startswith(start)))
    secrets = [vector["secret"]] if "secret" in vector else list(vector.get("secrets", []))
    body = vector["payload"].encode()
    try:
        receive(forge, secrets, vector["headers"], body, float(vector.get("now", 1.7e9)))
    except EventError as error:
        return error.error_code not in REFUSED
    return True
