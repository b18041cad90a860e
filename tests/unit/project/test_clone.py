"""Events that wait for a repository: what forges.yaml says now counts, and they can be let go of."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.cli.events import command as events_command
from maestro_dagster.errors import EventError
from maestro_dagster.events.figure import read_waiting_events
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.project.check import _check_forges
from maestro_dagster.project.intake import open_inbox, open_intake
from maestro_dagster.project.root import Project, open_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.workers.intake import Intake

FLOW = """\
name: on-push
version: 1.0.0
on: [push]
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: hello}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The repository."""
    folder = tmp_path / "shop.git"
    who = ["-c", "user.name=a", "-c", "user.email=a@b.cd"]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), *who, "commit", "-q", "--allow-empty", "-mx"], check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "yard"
    init_project(root)
    for path in (root / "assets").glob("*.yaml"):
        path.unlink()
    (root / "assets" / "on-push.yaml").write_text(FLOW)
    monkeypatch.chdir(root)
    return open_project(root, {})


def name_clone(project: Project, clone: Path | str | None) -> None:
    row = {
        "name": "shop",
        "forge": "github",
        "repository": "acme/shop",
        "clone": str(clone),
        "secrets": ["SHOP"],
    }
    rows = {"repositories": [row] if clone else []}
    path = project.root / "resources" / "forges.yaml"
    path.write_text(json.dumps(rows) + " " * time.monotonic_ns().bit_length())


def accept(
    project: Project, shop: Path, clone: Path | str, number: int = 1, **fields: Any
) -> RepositoryEvent:
    sha = subprocess.check_output(["git", "-C", str(shop), "rev-parse", "HEAD"], text=True).strip()
    known: dict[str, Any] = {"source": "webhook", "name": "shop", **fields}
    event = RepositoryEvent(
        f"webhook-{number:04d}", str(clone), "0" * 40, sha, "refs/heads/main", time.time(), **known
    )
    inbox = open_inbox(project)
    inbox.accept([event])
    inbox.close()
    return event


Take = Callable[[], int]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def intake(project: Project, said: list[str]) -> Intake:
    return open_intake(project, said.append, wait=True)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_corrected_clone_frees_what_waits(
    project: Project, shop: Path, intake: Intake, said: list[str], as_url: bool
) -> None:
    wrong, right = (path.as_uri() if as_url else path for path in (shop.with_name("typo.git"), shop))
    name_clone(project, wrong)
    event = accept(project, shop, wrong)
    assert intake.take() == 0
    assert "resources/forges.yaml" in said[-1] or as_url
    name_clone(project, right)
    assert intake.take(retry=True) == 1
    (run_id,) = intake.inbox.run_ids(event.event_id)
    from maestro_dagster.project.database import open_journal

    git = open_journal(project).run(run_id).git
    assert (git["repository"], git["sha"]) == (str(right), event.after)


def test_what_was_taken_out_waits_until_it_is_back(
    project: Project, shop: Path, intake: Intake, said: list[str]
) -> None:
    name_clone(project, None)
    accept(project, shop, shop)
    assert intake.take() == 0
    assert "--drop-all" in said[-1]
    name_clone(project, shop)
    assert intake.take(retry=True) == 1


def test_what_no_flow_wants_waits_for_no_repository(project: Project, shop: Path, intake: Intake) -> None:
    name_clone(project, None)
    accept(project, shop, shop, kind="pr")
    assert (intake.take(), intake.inbox.pending()) == (0, ())


def test_pushes_of_a_hook_stay_where_they_were(project: Project, shop: Path, intake: Intake) -> None:
    name_clone(project, shop.with_name("typo.git"))
    accept(project, shop, shop, source="hook")
    assert intake.take() == 1


@pytest.mark.parametrize("as_url", [False, True])
def test_the_doctor_sees_a_clone_that_is_no_repository(project: Project, shop: Path, as_url: bool) -> None:
    secret = project.home / "secrets" / "SHOP"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.touch(0o600)
    secret.write_text("a" * 32)
    for path, status in ((shop, "ok"), (shop.with_name("typo.git"), "error"), (project.root, "error")):
        name_clone(project, path.as_uri() if as_url else path)
        found = _check_forges(project)
        assert found.status == status
        assert status == "ok" or "resources/forges.yaml" in found.remedy


def call(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(events_command, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_nothing_was_told_yet(project: Project) -> None:
    assert call() == {"counts": {"waiting": 0, "requested": 0, "dropped": 0}, "dropped": [], "events": []}
    assert not (project.inbox / "inbox.sqlite").exists(), "looking makes no file"


def test_what_waits_is_listed_with_its_reason_and_dropped(
    project: Project, shop: Path, intake: Intake
) -> None:
    name_clone(project, shop.with_name("typo.git"))
    first, second = (accept(project, shop, shop, number) for number in (1, 2))
    intake.take()
    rows = call()["events"]
    assert [(row["id"], row["fault"]) for row in rows] == [
        (event.event_id, "the repository is not there") for event in (second, first)
    ]
    found = call("--drop", first.event_id, "--as", "ada")
    assert (found["dropped"], found["counts"]["waiting"]) == ([first.event_id], 1)
    (row,) = call("--state", "dropped")["events"]
    assert (row["id"], row["dropped"]["by"]) == (first.event_id, "ada")
    assert abs(row["dropped"]["at"] - time.time()) < 60
    name_clone(project, shop)
    assert intake.take(retry=True) == 1
    assert intake.inbox.run_ids(first.event_id) == ()
    assert intake.inbox.accept([first]) == (False,), "its id stays known"
    assert call("--state", "requested")["events"][0]["runs"] == list(intake.inbox.run_ids(second.event_id))


def test_all_of_one_repository_are_dropped_and_no_alert_goes_on(
    project: Project, shop: Path, intake: Intake
) -> None:
    name_clone(project, None)
    for number in range(3):
        accept(project, shop, shop, number)
    other = accept(project, shop, shop, 9, name="other")
    assert len(call("--repository", "shop", "--drop-all")["dropped"]) == 3
    assert [event.event_id for event in intake.inbox.pending()] == [other.event_id]
    call("--drop-all")
    assert intake.inbox.database.run_read(read_waiting_events).since is None


def test_one_that_does_not_wait_is_not_dropped_nor_are_those_beside_it(
    project: Project, shop: Path, intake: Intake
) -> None:
    name_clone(project, shop)
    taken = accept(project, shop, shop, 1)
    intake.take()
    waits = accept(project, shop, shop, 2)
    for wrong in (taken.event_id, "webhook-none"):
        with pytest.raises(EventError) as caught:
            CliRunner().invoke(
                events_command, ["--drop", waits.event_id, "--drop", wrong], catch_exceptions=False
            )
        assert caught.value.error_code == "event-unknown"
    assert [event.event_id for event in intake.inbox.pending()] == [waits.event_id]


def test_people_see_it_as_a_table(project: Project, shop: Path) -> None:
    name_clone(project, shop.with_name("typo.git"))
    accept(project, shop, shop)
    shown = CliRunner().invoke(events_command, [], catch_exceptions=False).output
    assert "webhook-0001" in shown
    assert "the repository is not there" in shown
    assert "1 waiting, 0 requested, 0 dropped" in shown
