"""What is read from a repository, and that reading runs nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.hook import install_hook
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.source import read_changed_paths, read_commit_facts, read_event_facts

Git = Any  # of conftest.py
ZERO = "0" * 40


def event(git: Git, after: str, before: str = ZERO, ref: str = "refs/heads/main") -> RepositoryEvent:
    return RepositoryEvent("event-id", str(git.bare), before, after, ref, 1.0)


def test_the_facts_of_a_commit(git: Git) -> None:
    sha = git.commit(message="Subject é\n\nBody")
    git.push()
    pushed = event(git, sha)
    facts = read_event_facts(pushed) | read_commit_facts(pushed, git.bare)
    when = facts.pop("time")
    assert when.startswith("20")
    assert facts == {
        "sha": sha,
        "ref": "refs/heads/main",
        "branch": "main",
        "repository": str(git.bare),
        "before": ZERO,
        "event_id": "event-id",
        "event": "push",
        "fork": "false",
        "received_at": "1.000",
        "author": "Ada <ada@example.com>",
        "message": "Subject é\n\nBody",
    }


def test_an_annotated_tag_gives_its_commit(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder)
    sha = git.commit(message="the commit")
    git.run("tag", "--annotate", "v1", "--message", "the tag")
    git.push("refs/tags/v1")
    (pushed,) = inbox.ingest()
    assert pushed.after != sha
    facts = read_commit_facts(pushed, git.bare)
    assert (facts["sha"], facts["message"]) == (sha, "the commit")


def test_changed_paths(git: Git) -> None:
    before = git.commit("kept")
    git.commit('a b/ünï"c')
    after = git.commit("other")
    git.push()
    assert sorted(read_changed_paths(event(git, after, before), git.bare)) == ['a b/ünï"c', "other"]


def test_both_names_of_a_renamed_file(git: Git) -> None:
    before = git.commit("old", "same text")
    git.run("mv", "old", "new")
    git.run("commit", "--quiet", "--message", "rename")
    after = git.run("rev-parse", "HEAD")
    git.push()
    assert sorted(read_changed_paths(event(git, after, before), git.bare)) == ["new", "old"]


def test_a_new_branch_is_compared_with_where_it_left(git: Git) -> None:
    git.commit("kept")
    git.push()
    git.run("checkout", "--quiet", "-b", "side")
    after = git.commit("mine")
    git.push("HEAD:refs/heads/side")
    assert read_changed_paths(event(git, after, ref="refs/heads/side"), git.bare) == ("mine",)
    assert read_changed_paths(event(git, after, ref="refs/heads/side"), git.bare, "trunk") == ("kept", "mine")


def test_the_first_push_of_the_default_branch_is_everything(git: Git) -> None:
    git.commit("a")
    after = git.commit("b")
    git.push()
    assert read_changed_paths(event(git, after), git.bare) == ("a", "b")


def test_a_before_that_is_gone(git: Git) -> None:
    after = git.commit("a")
    git.push()
    assert read_changed_paths(event(git, after, "d" * 40), git.bare) == ("a",)


def test_a_commit_that_is_not_there(git: Git) -> None:
    with pytest.raises(EventError) as caught:
        read_commit_facts(event(git, "d" * 40), git.bare)
    assert caught.value.error_code == "commit-missing"


def test_a_repository_that_is_gone(git: Git) -> None:
    shutil.rmtree(git.bare)
    for read in (read_commit_facts, read_changed_paths):
        with pytest.raises(EventError) as caught:
            read(event(git, "d" * 40), git.bare)
        assert caught.value.error_code == "repository-missing"


def test_reading_runs_nothing_of_the_repository(git: Git, tmp_path: Path) -> None:
    """What a repository's own configuration and attributes could make Git run."""
    before = git.commit(".gitattributes", "* diff=evil filter=evil\n")
    after = git.commit("a")
    git.push()
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "diff.evil.command", "diff.evil.textconv",
                 "filter.evil.clean", "filter.evil.smudge", "gpg.program", "core.sshCommand"):  # fmt: skip
        subprocess.run(["git", "-C", str(git.bare), "config", name, str(script)], check=True)
    subprocess.run(["git", "-C", str(git.bare), "config", "log.showSignature", "true"], check=True)
    assert read_changed_paths(event(git, after, before), git.bare) == ("a",)
    assert read_commit_facts(event(git, after), git.bare)["sha"] == after
    assert not (tmp_path / "ran").exists()
