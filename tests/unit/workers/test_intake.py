from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.errors import ManifestError
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent, run_id_for
from maestro_dagster.events.mirror import Mirrors
from maestro_dagster.manifest.model import Flow
from maestro_dagster.workers.intake import FlowFolder, Intake

ZERO = "0" * 40


def make_flow(name: str, on: object) -> Flow:
    tasks = [{"id": "a", "uses": "pkg:text/template@1.0.0"}]
    return Flow.model_validate({"name": name, "version": "1.0.0", "on": on, "tasks": tasks})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    for command in (
        ["init", "--quiet", "--initial-branch=main", str(folder)],
        [
            "-C",
            str(folder),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.cd",
            "commit",
            "--quiet",
            "--allow-empty",
            "-mx",
        ],
    ):
        subprocess.run(["git", *command], check=True)
    return folder


class Desk:
    """An intake, and what it asked for."""

    def __init__(self, folder: Path, flows: Sequence[Flow]) -> None:
        self.inbox = Inbox(folder / "inbox", folder / "inbox.sqlite")
        self.asked: list[RunRequest] = []
        self.said: list[str] = []
        self.fail = False
        paths = []
        for flow in flows:
            paths.append(folder / f"{flow.name}.json")
            paths[-1].write_text("x")
        by_path = dict(zip(paths, flows, strict=True))
        self.intake = Intake(
            self.inbox,
            FlowFolder(lambda: paths, by_path.__getitem__, self.said.append),
            self.request,
            self.said.append,
            Mirrors(folder / "mirrors", wait=True),
        )

    def request(self, requests: Sequence[RunRequest]) -> None:
        if self.fail:
            raise RuntimeError("the power went out")
        self.asked += requests

    def record(self, event: RepositoryEvent) -> None:
        self.inbox.accept([event])

    def push(
        self, repository: Path, ref: str = "refs/heads/main", event_id: str = "event-0001"
    ) -> RepositoryEvent:
        head = subprocess.check_output(["git", "-C", str(repository), "rev-parse", "HEAD"], text=True).strip()
        event = RepositoryEvent(event_id, str(repository), ZERO, head, ref, 1.0, "hook", "lib")
        self.record(event)
        return event


def test_each_flow_that_wants_the_push_gets_one_run(tmp_path: Path, repository: Path) -> None:
    flows = [
        make_flow("all-of-them", [{"event": "push"}]),
        make_flow("only-dev", [{"event": "push", "branches": ["dev"]}]),
        make_flow("never", []),
    ]
    desk = Desk(tmp_path, flows)
    event = desk.push(repository)
    assert desk.intake.take() == 1
    (request,) = desk.asked
    assert request.run_id == run_id_for(event.event_id, "all-of-them")
    assert (request.cause, request.partition) == ("push", "lib@refs/heads/main")
    assert request.git["sha"] == event.after
    assert desk.intake.take() == 0
    assert desk.inbox.run_ids(event.event_id) == (request.run_id,)


def test_a_pass_that_died_before_its_note_asks_for_the_same_run_again(
    tmp_path: Path, repository: Path
) -> None:
    desk = Desk(tmp_path, [make_flow("one", [{"event": "push"}])])
    desk.push(repository)
    desk.fail = True
    with pytest.raises(RuntimeError):
        desk.intake.take()
    desk.fail = False
    desk.intake.take()
    assert [request.run_id for request in desk.asked] == [run_id_for("event-0001", "one")]


def test_a_vanished_repository_keeps_its_push_and_holds_up_no_other(tmp_path: Path, repository: Path) -> None:
    desk = Desk(tmp_path, [make_flow("one", [{"event": "push"}])])
    away = tmp_path / "away"
    desk.push(repository, event_id="event-0002")
    repository.rename(away)
    subprocess.run(["git", "clone", "--quiet", str(away), str(tmp_path / "other")], check=True)
    desk.push(tmp_path / "other", event_id="event-0003")
    assert desk.intake.take() == 1
    assert [event.event_id for event in desk.inbox.pending()] == ["event-0002"]
    assert desk.intake.take() == 0
    away.rename(repository)
    assert desk.intake.take() == 0, "not asked again before its time"
    assert desk.intake.take(retry=True) == 1


def test_a_push_whose_commit_is_gone_still_becomes_a_run(tmp_path: Path, repository: Path) -> None:
    desk = Desk(tmp_path, [make_flow("one", [{"event": "push"}])])
    desk.record(RepositoryEvent("event-0004", str(repository), ZERO, "1" * 40, "refs/heads/main", 1.0))
    assert desk.intake.take() == 1
    assert desk.asked[0].git["sha"] == "1" * 40
    assert any("commit-missing" in line or "does not have" in line for line in desk.said)


def test_a_broken_flow_leaves_the_others_usable_and_is_read_again_when_mended(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("good")
    bad.write_text("bad")
    reads: list[str] = []

    def read(path: Path) -> Flow:
        reads.append(path.name)
        if path.read_text() == "bad":
            raise ManifestError("it is broken")
        return make_flow(path.stem + "-flow", [])

    said: list[str] = []
    folder = FlowFolder(lambda: [good, bad], read, said.append)
    assert [flow.name for flow in folder.flows()] == ["good-flow"]
    folder.flows()
    assert reads == ["good.yaml", "bad.yaml"], "unchanged files are not read again"
    assert len(said) == 1
    bad.write_text("mended")
    assert [flow.name for flow in folder.flows()] == ["good-flow", "bad-flow"]


def test_an_idle_pass_is_cheap(tmp_path: Path) -> None:
    flows = [make_flow(f"flow-{number}", [{"event": "push"}]) for number in range(50)]
    desk = Desk(tmp_path, flows)
    desk.intake.take()
    begun = time.process_time()
    for _ in range(20):
        desk.intake.take()
    assert (time.process_time() - begun) / 20 < 0.020
    begun = time.process_time()
    for _ in range(1000):
        assert not desk.intake.has_drops()
    assert (time.process_time() - begun) / 1000 < 0.001


def tell(desk: Desk, repository: Path | str, number: int = 1, **fields: Any) -> RepositoryEvent:
    """A webhook of a remote repository."""
    url = repository.as_uri() if isinstance(repository, Path) else repository
    head = (
        fields.pop("after", "")
        or subprocess.check_output(["git", "-C", str(repository), "rev-parse", "HEAD"], text=True).strip()
    )
    known = {"ref": "refs/heads/main", "kind": "push", "facts": {}, **fields}
    event = RepositoryEvent(
        f"webhook-{number:04d}", url, ZERO, head, received_at=1.0, source="webhook", name="lib", **known
    )
    desk.record(event)
    return event


def take_soon(desk: Desk) -> int:
    """What is taken once a mirror has news."""
    deadline = time.monotonic() + 60
    while not desk.intake.has_drops() and time.monotonic() < deadline:
        time.sleep(0.01)
    return desk.intake.take()


def test_a_remote_repository_is_fetched_beside_the_loop(tmp_path: Path, repository: Path) -> None:
    desk = Desk(tmp_path, [make_flow("one", [{"event": "push"}])])
    desk.intake.mirrors = Mirrors(tmp_path / "mirrors")
    desk.intake.take()
    events = [tell(desk, repository, number) for number in range(3)]
    assert desk.intake.take() == 0
    assert desk.inbox.pending() == tuple(events), "they wait"
    asked = 0
    while asked < 3:
        found = take_soon(desk)
        assert found, "nothing lost"
        asked += found
    assert [request.git["sha"] for request in desk.asked] == [event.after for event in events]
    assert desk.asked[0].git["repository"] == repository.as_uri()
    assert desk.inbox.pending() == ()
    assert desk.said == []


def test_a_server_that_is_away_holds_up_its_own_events_only(tmp_path: Path, repository: Path) -> None:
    desk = Desk(tmp_path, [make_flow("one", [{"event": "push"}])])
    gone = tell(desk, "http://127.0.0.1:1/lib.git", 1, after="b" * 40)
    tell(desk, repository, 2)
    assert desk.intake.take() == 1
    assert desk.inbox.pending() == (gone,)
    assert "waits" in desk.said[0]
    assert desk.intake.take() == 0
    assert len(desk.said) == 1, "said once, until it is tried again"
    desk.intake.take(retry=True)
    assert len(desk.said) == 2


def test_what_no_flow_wants_is_not_fetched(tmp_path: Path) -> None:
    flows = [
        make_flow("docs", [{"event": "push", "paths": ["docs/**"]}]),
        make_flow("never", [{"event": "tag"}]),
    ]
    desk = Desk(tmp_path, flows)
    facts = {"changed_paths": ["src/a.py"]}
    tell(desk, "http://127.0.0.1:1/lib.git", after="b" * 40, facts=facts)
    assert desk.intake.take() == 0
    assert (desk.inbox.pending(), desk.said) == ((), [])


def test_a_pull_request_becomes_a_run_that_knows_it(tmp_path: Path, repository: Path) -> None:
    desk = Desk(
        tmp_path, [make_flow("all", [{"event": "pr", "forks": True}]), make_flow("own", [{"event": "pr"}])]
    )
    told = {"action": "opened", "title": "A change", "base_ref": "main", "head_ref": "x"}
    facts = {**told, "number": 7, "fork": True, "actor": "eve", "labels": ["a", "b"]}
    tell(desk, repository, kind="pr", ref="refs/pull/7/head", facts=facts)
    assert desk.intake.take() == 1
    (request,) = desk.asked
    assert (request.flow.name, request.cause, request.actor) == ("all", "event", "eve")
    assert request.partition == "lib@pr/7"
    told |= {"event": "pr", "number": "7", "fork": "true", "labels": "a,b"}
    assert told.items() <= request.git.items()
    assert request.git["author"] == "a <a@b.cd>", "the author of the commit is not who did it"


def test_a_branch_of_a_fork_never_stands_for_ours(tmp_path: Path, repository: Path) -> None:
    desk = Desk(tmp_path, [make_flow("all", [{"event": "check", "forks": True}])])
    tell(desk, repository, kind="check", facts={"action": "completed", "fork": True})
    desk.intake.take()
    assert desk.asked[0].partition == "lib@fork/refs/heads/main"


def test_a_deleted_branch_needs_no_repository(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [make_flow("clean", [{"event": "delete"}])])
    event = tell(desk, "http://127.0.0.1:1/lib.git", kind="delete", after=ZERO)
    desk.record(replace(event, event_id="webhook-0009", before="c" * 40))
    assert desk.intake.take() == 2
    assert [request.git.get("sha") for request in desk.asked] == [None, "c" * 40]
    assert desk.said == []
