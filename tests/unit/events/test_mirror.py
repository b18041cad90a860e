"""Mirrors of remote repositories: fetched over real http, whatever happens to them or their server."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_server import GitServer, serve_git

from maestro_dagster.errors import EventError
from maestro_dagster.events import git as git_room
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import Kind, RepositoryEvent
from maestro_dagster.events.mirror import (
    Mirrors,
    find_mirror,
    make_credential,
    strip_credentials,
)
from maestro_dagster.events.refs import Poll, poll_repositories
from maestro_dagster.events.source import read_changed_paths, read_commit_facts, read_event_facts

Git = Any  # of conftest.py
ZERO = "0" * 40


@pytest.fixture
def server(git: Git) -> Iterator[GitServer]:
    with serve_git(git.bare.parent) as server:
        yield server


def event(
    url: str, after: str, ref: str = "refs/heads/main", kind: Kind = "push", before: str = ZERO, **facts: Any
) -> RepositoryEvent:
    return RepositoryEvent("event-0001", url, before, after, ref, 1.0, "webhook", "shop", kind, facts)


def test_a_push_is_read_from_the_mirror(git: Git, server: GitServer, tmp_path: Path) -> None:
    before, after = git.commit("a"), git.commit("b", message="the second")
    git.push()
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    pushed = event(f"{server.url}/shop.git", after, before=before)
    where = mirrors.find(pushed)
    assert where is not None
    assert read_changed_paths(pushed, where) == ("b",)
    facts = read_event_facts(pushed) | read_commit_facts(pushed, where)
    assert (facts["message"], facts["repository"]) == ("the second", f"{server.url}/shop.git")
    asked = len(server.asked)
    assert mirrors.find(pushed) == where
    assert len(server.asked) == asked, "what is there is not fetched again"
    later = git.commit("c")
    git.push()
    assert mirrors.find(event(f"{server.url}/shop.git", later)) == where
    assert len(server.asked) > asked


def test_it_is_fetched_beside_the_loop(git: Git, server: GitServer, tmp_path: Path) -> None:
    after = git.commit()
    git.push()
    mirrors = Mirrors(tmp_path / "mirrors")
    pushed = event(f"{server.url}/shop.git", after)
    assert mirrors.find(pushed) is None
    deadline = time.monotonic() + 30
    while not mirrors.has_news() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not mirrors.has_news()
    where = mirrors.find(pushed)
    assert where is not None
    assert read_commit_facts(pushed, where)["sha"] == after
    gone = event("http://127.0.0.1:1/gone.git", after)
    assert mirrors.find(gone) is None
    while not mirrors.has_news() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(EventError) as caught:
        mirrors.find(gone)
    assert caught.value.error_code == "mirror-failed"
    assert mirrors.find(gone) is None, "and is tried again"


def test_heads_of_pull_requests_and_commits_that_lost_their_branch(
    git: Git, server: GitServer, tmp_path: Path
) -> None:
    base = git.commit("a")
    git.push()
    git.run("checkout", "--quiet", "-b", "feature")
    head = git.commit("b")
    git.push("HEAD:refs/pull/7/head")
    url = f"{server.url}/shop.git"
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    request = event(url, head, "refs/pull/7/head", "pr", base, base_ref="main", number=7, fork=True)
    where = mirrors.find(request)
    assert where is not None
    assert read_changed_paths(request, where) == ("b",)
    facts = read_event_facts(request)
    assert (facts["event"], facts["number"], facts["base_ref"], facts["fork"]) == ("pr", "7", "main", "true")
    lost = git.commit("c")
    git.push("HEAD:refs/heads/feature")
    git.push("+HEAD~1:refs/heads/feature")
    git.run("config", "uploadpack.allowAnySHA1InWant", "true", at=git.bare)
    assert mirrors.find(event(url, lost, "refs/heads/feature")) == where
    assert read_commit_facts(event(url, lost), where)["sha"] == lost


def test_what_a_pull_request_changes_is_told_from_where_it_left_its_base(git: Git, tmp_path: Path) -> None:
    git.commit("a")
    git.push()
    git.run("checkout", "--quiet", "-b", "feature")
    head = git.commit("mine")
    git.push("HEAD:refs/heads/feature")
    git.run("checkout", "--quiet", "main")
    base = git.commit("theirs")
    git.push()
    pushed = event(str(git.bare), head, "refs/heads/feature", "pr", base, base_ref="main")
    assert read_changed_paths(pushed, git.bare) == ("mine",)
    unknown = event(str(git.bare), head, "refs/heads/feature", "pr", ZERO, base_ref="main")
    assert read_changed_paths(unknown, git.bare) == ("mine",)


def test_a_release_without_a_commit_is_that_of_its_tag(git: Git, server: GitServer, tmp_path: Path) -> None:
    sha = git.commit()
    git.run("tag", "--annotate", "v1", "--message", "the tag")
    git.push("HEAD:refs/heads/main", "refs/tags/v1")
    released = event(f"{server.url}/shop.git", ZERO, "refs/tags/v1", "release", action="published")
    where = Mirrors(tmp_path / "mirrors", wait=True).find(released)
    assert where is not None
    assert read_commit_facts(released, where)["sha"] == sha
    draft = event(f"{server.url}/shop.git", ZERO, "refs/tags/v2", "release")
    with pytest.raises(EventError) as caught:
        read_commit_facts(draft, where)
    assert caught.value.error_code == "commit-missing"
    assert "sha" not in read_event_facts(draft)


def test_a_branch_of_a_fork_is_not_ours_of_that_name(git: Git, server: GitServer, tmp_path: Path) -> None:
    """Some forges tell only the branch of a pull request."""
    sha = git.commit()
    git.push()
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    for fork in (True, None, False):
        request = event(f"{server.url}/shop.git", ZERO, kind="pr", number=7, base_ref="main", fork=fork)
        where = mirrors.find(request)
        assert where is not None
        if fork is False:
            assert read_commit_facts(request, where)["sha"] == sha
            continue
        with pytest.raises(EventError) as caught:
            read_commit_facts(request, where)
        assert caught.value.error_code == "commit-missing"


def test_a_commit_that_the_server_does_not_have(git: Git, server: GitServer, tmp_path: Path) -> None:
    git.commit()
    git.push()
    missing = event(f"{server.url}/shop.git", "d" * 40)
    where = Mirrors(tmp_path / "mirrors", wait=True).find(missing)
    assert where is not None
    with pytest.raises(EventError) as caught:
        read_commit_facts(missing, where)
    assert caught.value.error_code == "commit-missing"


@pytest.mark.parametrize("forge", ["github", "gitlab", "bitbucket", "gitea", "azure-devops"])
def test_a_token_goes_to_its_server_and_into_no_argument(
    git: Git, server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: str
) -> None:
    server.password = "tok-very-secret"
    after = git.commit()
    git.push()
    pushed = event(f"{server.url}/shop.git", after)
    with pytest.raises(EventError) as caught:
        Mirrors(tmp_path / "none", wait=True).find(pushed)
    assert caught.value.error_code == "mirror-denied"
    ran: list[list[str]] = []
    real = subprocess.run

    def note(arguments: list[str], **named: Any) -> Any:
        ran.append(arguments)
        return real(arguments, **named)

    monkeypatch.setattr(subprocess, "run", note)
    header = make_credential(forge, "tok-very-secret")
    mirrors = Mirrors(tmp_path / "mirrors", lambda _: header, wait=True)
    assert mirrors.find(pushed) is not None
    assert len(ran) > 2
    spelled = ("tok-very-secret", base64.b64encode(b"tok-very-secret").decode()[:-4], header)
    assert not [words for words in ran if any(each in " ".join(words) for each in spelled)]
    for path in (tmp_path / "mirrors").rglob("*"):
        assert not path.is_file() or not any(each.encode() in path.read_bytes() for each in spelled)


def test_a_password_in_a_url_is_used_and_taken_out(git: Git, server: GitServer, tmp_path: Path) -> None:
    server.password = "s3cr%t"
    after = git.commit()
    git.push()
    url = server.url.replace("http://", "http://me:s3cr%25t@") + "/shop.git"
    pushed = event(url, after)
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    where = mirrors.find(pushed)
    assert where == find_mirror(tmp_path / "mirrors", f"{server.url}/shop.git")
    assert read_event_facts(pushed)["repository"] == strip_credentials(url) == f"{server.url}/shop.git"
    server.password = "another"
    with pytest.raises(EventError) as caught:
        mirrors.find(event(url, "d" * 40))
    assert "s3cr" not in str(caught.value)


def test_a_password_in_a_url_that_is_polled_is_used_and_not_shown(
    git: Git, server: GitServer, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def note(arguments: list[str], *given: Any, **named: Any) -> bytes:
        told.append(arguments)
        return run(arguments, *given, **named)

    run = git_room.run
    monkeypatch.setattr(git_room, "run", note)
    server.password = "s3cr%t"
    url = server.url.replace("http://", "http://me:s3cr%25t@") + "/shop.git"
    git.commit()
    git.push()
    assert poll_repositories(inbox, [url]) == Poll((), ())
    git.commit()
    git.push()
    assert len(poll_repositories(inbox, [url]).events) == 1
    server.password = "another"
    (problem,) = poll_repositories(inbox, [url]).problems
    assert "s3cr" not in f"{problem} {told}"


def test_a_credential_is_not_taken_elsewhere(git: Git, server: GitServer, tmp_path: Path) -> None:
    after = git.commit()
    git.push()
    with serve_git(tmp_path / "empty") as other:
        server.redirect = other.url
        with pytest.raises(EventError):
            Mirrors(tmp_path / "mirrors", lambda _: "Basic eDp4", wait=True).find(
                event(f"{server.url}/shop.git", after)
            )
        assert other.asked == []


def test_a_token_never_travels_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def credential(url: str) -> str:
        asked.append(url)
        return "Basic eDp4"

    monkeypatch.setattr(git_room, "run", lambda *_, **__: b"")
    mirrors = Mirrors(tmp_path / "mirrors", credential, wait=True)
    mirrors.find(event("http://forge.example/acme/shop.git", "d" * 40))
    mirrors.find(event("ssh://git@forge.example/acme/shop.git", "d" * 40))
    assert asked == []
    mirrors.find(event("https://forge.example/acme/shop.git", "d" * 40))
    assert asked == ["https://forge.example/acme/shop.git"]


@pytest.mark.parametrize("damage", ["head", "packs", "empty"])
def test_a_damaged_mirror_is_made_again(git: Git, server: GitServer, tmp_path: Path, damage: str) -> None:
    first = git.commit("a")
    git.push()
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    where = mirrors.find(event(f"{server.url}/shop.git", first))
    assert where is not None
    if damage == "head":
        (where / "HEAD").write_text("")
    elif damage == "packs":
        for path in (where / "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                path.write_bytes(b"")
    else:
        subprocess.run(["rm", "-rf", str(where)], check=True)
        where.mkdir()
    second = git.commit("b")
    git.push()
    pushed = event(f"{server.url}/shop.git", second, before=first)
    assert mirrors.find(pushed) == where
    assert read_changed_paths(pushed, where) == ("b",)


def test_locks_of_a_git_that_died_with_its_machine(git: Git, server: GitServer, tmp_path: Path) -> None:
    git.commit("a")
    git.push()
    mirrors = Mirrors(tmp_path / "mirrors", wait=True)
    where = mirrors.find(event(f"{server.url}/shop.git", git.run("rev-parse", "HEAD")))
    assert where is not None
    second = git.commit("b")
    git.push()
    lock = where / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(EventError):
        mirrors.find(event(f"{server.url}/shop.git", second))
    os.utime(lock, (1, 1))
    assert mirrors.find(event(f"{server.url}/shop.git", second)) == where
    assert read_commit_facts(event(f"{server.url}/shop.git", second), where)["sha"] == second
