"""Polled refs: the net below the hooks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maestro_dagster.events.hook import install_hook
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.refs import is_remote, poll_repositories

Git = Any  # of conftest.py


def poll(inbox: Inbox, *gits: Git) -> list[tuple[str, str, str]]:
    found = poll_repositories(inbox, [str(git.bare) for git in gits], now=5.0)
    assert found.problems == ()
    return [(event.branch, event.before[:7], event.after[:7]) for event in found.events]


def test_the_first_sight_only_records(git: Git, inbox: Inbox) -> None:
    git.commit()
    git.push()
    assert poll(inbox, git) == []
    assert poll(inbox, git) == []


def test_a_move_is_one_pending_event(git: Git, inbox: Inbox) -> None:
    first = git.commit()
    git.push()
    poll(inbox, git)
    git.commit()
    git.push()
    newest = git.commit()
    git.push()
    # The newest commit only: what lies between two polls is not seen.
    assert poll(inbox, git) == [("main", first[:7], newest[:7])]
    assert poll(inbox, git) == []
    (event,) = inbox.pending()
    assert (event.source, event.received_at, event.name) == ("poll", 5.0, "shop")


def test_new_and_deleted_refs(git: Git, inbox: Inbox) -> None:
    sha = git.commit()[:7]
    git.push()
    poll(inbox, git)
    git.push("HEAD:refs/heads/new", "HEAD:refs/tags/v1")
    zero = "0" * 7
    assert poll(inbox, git) == [("new", zero, sha), ("v1", zero, sha)]
    git.push(":refs/heads/new")
    assert poll(inbox, git) == [("new", sha, zero)]
    assert [event.kind for event in inbox.pending()] == ["push", "tag", "delete"]
    assert poll(inbox, git) == []
    git.push("HEAD:refs/heads/new")
    assert poll(inbox, git) == [("new", zero, sha)]


def test_going_back_and_forth_makes_different_events(git: Git, inbox: Inbox) -> None:
    first, second = git.commit(), git.commit()
    git.push()
    poll(inbox, git)
    for sha in (first, second, first, second):
        git.push(f"+{sha}:refs/heads/main")
        assert len(poll(inbox, git)) == 1
    assert len(inbox.pending()) == 4


def test_a_repository_that_vanishes_does_not_stop_the_others(
    make_git: Callable[..., Git], inbox: Inbox
) -> None:
    gone, there = make_git("gone.git"), make_git("there.git")
    for git in (gone, there):
        git.commit()
        git.push()
    poll(inbox, gone, there)
    shutil.rmtree(gone.bare)
    there.commit()
    there.push()
    found = poll_repositories(inbox, {"old": str(gone.bare), "named": str(there.bare)})
    assert [problem.error_code for problem in found.problems] == ["repository-missing"]
    assert [event.name for event in found.events] == ["named"]


def test_a_hooked_repository_is_left_to_its_hook(git: Git, inbox: Inbox) -> None:
    git.commit()
    git.push()
    poll(inbox, git)
    hook = install_hook(git.bare, inbox.folder)
    git.commit()
    git.push()
    assert poll(inbox, git) == []
    assert len(inbox.ingest()) == 1
    hook.path.unlink()
    # What the hook told is not told again; what comes after it is.
    assert poll(inbox, git) == []
    git.commit()
    git.push()
    assert len(poll(inbox, git)) == 1


def test_a_url_is_polled_too(git: Git, inbox: Inbox) -> None:
    git.commit()
    git.push()
    url = f"file://{git.bare}"
    assert poll_repositories(inbox, [url]).events == ()
    git.commit()
    git.push()
    (event,) = poll_repositories(inbox, [url]).events
    assert event.repository == url


def test_a_url_that_would_run_something_is_refused(inbox: Inbox, tmp_path: Path) -> None:
    urls = [f"ext::sh -c touch% {tmp_path}/ran", "--upload-pack=touch ran://x"]
    found = poll_repositories(inbox, urls)
    assert len(found.problems) == 2
    assert not (tmp_path / "ran").exists()


def test_what_is_remote(tmp_path: Path) -> None:
    assert is_remote("https://example.com/x.git")
    assert is_remote("git@example.com:x.git")
    assert not is_remote("/srv/x.git")
    assert not is_remote("repositories/x.git")
