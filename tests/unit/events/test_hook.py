"""The hook: what a push leaves in the inbox, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.errors import EventError
from maestro_dagster.events.hook import install_hook, is_hooked
from maestro_dagster.events.inbox import Inbox

Git = Any  # of conftest.py


def test_each_ref_of_a_push_is_an_event(git: Git, inbox: Inbox) -> None:
    installed = install_hook(git.bare, inbox.folder)
    assert installed.name == "shop"
    assert os.access(installed.path, os.X_OK)
    sha = git.commit()
    git.push("HEAD:refs/heads/main", "HEAD:refs/heads/other", "HEAD:refs/tags/v1")
    events = inbox.ingest()
    assert [event.ref for event in events] == ["refs/heads/main", "refs/heads/other", "refs/tags/v1"]
    assert {event.after for event in events} == {sha}
    assert {event.before for event in events} == {"0" * 40}
    assert {event.repository for event in events} == {str(git.bare)}
    assert events[0].partition == "shop@refs/heads/main"
    assert len({event.event_id for event in events}) == 3


def test_three_quick_pushes_are_three_events(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder)
    shas = []
    for _ in range(3):
        shas.append(git.commit())
        git.push()
    events = inbox.ingest()
    assert [event.after for event in events] == shas
    assert [event.before for event in events] == ["0" * 40, *shas[:-1]]


def test_a_deleted_ref_is_an_event_of_its_own(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder)
    git.commit()
    git.push("HEAD:refs/heads/gone")
    git.push(":refs/heads/gone")
    assert [event.deleted for event in inbox.ingest()] == [False, True]
    assert [event.kind for event in inbox.pending()] == ["push", "delete"]


@pytest.mark.parametrize(
    "name", ["with space.git", "quo'te\".git", "dollar$(id)`id`.git", "ünï.git", "-dash.git"]
)
def test_strange_paths_and_refs(make_git: Callable[..., Git], tmp_path: Path, name: str) -> None:
    git = make_git(name)
    inbox = Inbox(tmp_path / f"inbox of {name}", tmp_path / "inbox.sqlite")
    install_hook(git.bare, inbox.folder)
    git.commit()
    refs = [
        'refs/heads/a"b',
        "refs/heads/$(touch${IFS}x)",
        "refs/heads/`id`",
        "refs/heads/é'ü",
        "refs/heads/a;b&c|d",
    ]
    git.push(*(f"HEAD:{ref}" for ref in refs))
    events = inbox.ingest()
    assert sorted(event.ref for event in events) == sorted(refs)
    assert {event.repository for event in events} == {str(git.bare)}
    assert list((inbox.folder / "bad").iterdir()) == []
    inbox.close()


def test_installing_again_changes_nothing(git: Git, inbox: Inbox) -> None:
    first = install_hook(git.bare, inbox.folder)
    text = first.path.read_text()
    again = install_hook(git.bare, inbox.folder)
    assert (first.changed, again.changed) == (True, False)
    assert again.path.read_text() == text
    assert again.chained is None
    first.path.chmod(0o644)
    assert install_hook(git.bare, inbox.folder).changed
    assert os.access(first.path, os.X_OK)


def test_an_existing_hook_is_kept_and_called_with_the_same_input(
    git: Git, inbox: Inbox, tmp_path: Path
) -> None:
    theirs = git.bare / "hooks" / "post-receive"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text(f"#!/bin/sh\ncat > '{tmp_path}/seen'\necho theirs\n")
    theirs.chmod(0o755)
    installed = install_hook(git.bare, inbox.folder)
    assert installed.chained == theirs.with_name("post-receive.chained")
    again = install_hook(git.bare, inbox.folder)
    assert (again.changed, again.chained) == (False, installed.chained)
    sha = git.commit()
    said = git.push().stderr
    assert "theirs" in said
    assert (tmp_path / "seen").read_text() == f"{'0' * 40} {sha} refs/heads/main\n"
    assert len(inbox.ingest()) == 1


def test_one_repository_serves_two_projects(git: Git, inbox: Inbox, tmp_path: Path) -> None:
    other = Inbox(tmp_path / "other" / "inbox", tmp_path / "other" / "inbox.sqlite")
    install_hook(git.bare, inbox.folder)
    second = install_hook(git.bare, other.folder)
    assert second.chained is not None
    git.commit()
    git.push()
    assert len(inbox.ingest()) == len(other.ingest()) == 1
    assert is_hooked(git.bare, inbox.folder)
    assert is_hooked(git.bare, other.folder)
    other.close()


def test_a_repository_with_a_working_tree_and_its_worktree(git: Git, inbox: Inbox, tmp_path: Path) -> None:
    git.commit()
    target = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", str(git.clone), str(target)], check=True, capture_output=True)
    git.run("worktree", "add", "--quiet", str(tmp_path / "linked"), at=target)
    installed = install_hook(tmp_path / "linked", inbox.folder)
    assert installed.path == target / ".git" / "hooks" / "post-receive"
    git.run("push", "--quiet", str(target), "HEAD:refs/heads/pushed")
    assert [event.branch for event in inbox.ingest()] == ["pushed"]


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_a_shared_folder_of_hooks(
    make_git: Callable[..., Git], inbox: Inbox, tmp_path: Path, scope: str
) -> None:
    ours, stranger = make_git("ours.git"), make_git("stranger.git")
    hooks = tmp_path / "shared hooks"
    for git in (ours, stranger):
        git.run("config", scope, "core.hooksPath", str(hooks), at=git.bare)
    installed = install_hook(ours.bare, inbox.folder)
    assert installed.path == hooks / "post-receive"
    for git in (ours, stranger):
        git.commit()
        git.push()
    assert [event.name for event in inbox.ingest()] == ["ours"]
    assert is_hooked(ours.bare, inbox.folder)


def test_a_hook_needs_no_python(git: Git, inbox: Inbox) -> None:
    text = install_hook(git.bare, inbox.folder).path.read_text()
    assert text.startswith("#!/bin/sh\n")
    code = [line for line in text.splitlines() if not line.startswith(("inbox=", "repository="))]
    assert not any("python" in line.lower() for line in code)


@pytest.mark.skipif(
    shutil.which("busybox") is None and shutil.which("dash") is None, reason="no second shell"
)
def test_the_hook_is_plain_sh(git: Git, inbox: Inbox) -> None:
    path = install_hook(git.bare, inbox.folder).path
    for shell in (["dash", "-n"], ["busybox", "sh", "-n"]):
        if shutil.which(shell[0]):
            subprocess.run([*shell, str(path)], check=True)


def test_a_push_is_never_refused_and_the_pusher_hears_of_it(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder)
    shutil.rmtree(inbox.folder)
    inbox.folder.write_text("no folder any more")
    sha = git.commit()
    said = git.push().stderr
    assert git.run("rev-parse", "refs/heads/main", at=git.bare) == sha
    assert "could not be recorded" in said
    assert "refs/heads/main" in said


def test_a_lost_inbox_is_made_again(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder)
    shutil.rmtree(inbox.folder)
    git.commit()
    git.push()
    assert len(list((inbox.folder / "new").iterdir())) == 1


def test_drops_are_whole_json(git: Git, inbox: Inbox) -> None:
    install_hook(git.bare, inbox.folder, "team/shop")
    git.commit()
    git.push()
    drops = list((inbox.folder / "new").glob("*.json"))
    assert [json.loads(drop.read_text())["event_id"] for drop in drops] == [drop.stem for drop in drops]
    assert json.loads(drops[0].read_text())["name"] == "team/shop"
    assert list((inbox.folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "plain", "inside"])
def test_what_is_no_repository_is_refused(git: Git, inbox: Inbox, tmp_path: Path, kind: str) -> None:
    folder = {"missing": tmp_path / "nowhere", "plain": tmp_path, "inside": git.clone / "sub"}[kind]
    if kind == "inside":
        folder.mkdir()
    with pytest.raises(EventError) as caught:
        install_hook(folder, inbox.folder)
    assert caught.value.error_code == "repository-missing"
    assert "`repositories`" not in caught.value.remedy, "it is in no setting yet"
    assert "git init --bare" in caught.value.remedy


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ré po.git", "re-po"),
        ("a--b.git", "a--b"),
        ("ﬁne & good.git", "fine-good"),
        ("日本.git", "repository"),
    ],
)
def test_the_name_is_readable(make_git: Callable[..., Git], inbox: Inbox, folder: str, name: str) -> None:
    assert install_hook(make_git(folder).bare, inbox.folder).name == name


def test_no_two_repositories_of_a_project_have_one_name(
    make_git: Callable[..., Git], inbox: Inbox, tmp_path: Path
) -> None:
    first, second = make_git("ré po.git"), make_git("re po.git")
    path = install_hook(first.bare, inbox.folder).path
    with pytest.raises(EventError) as caught:
        install_hook(second.bare, inbox.folder)
    assert caught.value.error_code == "repository-name-twice"
    assert str(first.bare) in caught.value.place
    assert "--name" in caught.value.remedy
    assert not (second.bare / "hooks" / "post-receive").exists()
    assert install_hook(second.bare, inbox.folder, "other").changed
    assert not install_hook(first.bare, inbox.folder).changed, "it keeps its own"
    path.unlink()
    assert install_hook(second.bare, inbox.folder).name == "re-po", "a name without a hook is free"
    with pytest.raises(EventError) as caught:
        install_hook(first.bare, inbox.folder, "shop", {"shop": str(tmp_path / "shop.git")})
    assert caught.value.error_code == "repository-name-twice"
    assert install_hook(first.bare, inbox.folder, "shop", {"shop": str(first.bare)}).changed


def test_a_name_that_is_none(git: Git, inbox: Inbox) -> None:
    with pytest.raises(EventError) as caught:
        install_hook(git.bare, inbox.folder, 'a"b')
    assert caught.value.error_code == "repository-name-invalid"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_hooks_that_cannot_be_written(git: Git, inbox: Inbox) -> None:
    hooks = git.bare / "hooks"
    hooks.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(EventError) as caught:
        install_hook(git.bare, inbox.folder)
    assert caught.value.error_code == "hook-failed"


def test_is_hooked(git: Git, inbox: Inbox, tmp_path: Path) -> None:
    assert not is_hooked(git.bare, inbox.folder)
    assert not is_hooked(tmp_path / "nowhere", inbox.folder)
    installed = install_hook(git.bare, inbox.folder)
    assert is_hooked(git.bare, inbox.folder)
    assert not is_hooked(git.bare, tmp_path / "other")
    installed.path.chmod(0o644)
    assert not is_hooked(git.bare, inbox.folder)


def test_the_command(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maestro_dagster.cli.hook import command

    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(f'[tool.maestro]\nrepositories = ["named={git.bare}"]\n')
    monkeypatch.chdir(project)
    monkeypatch.delenv("MAESTRO_PROJECT", raising=False)
    done = CliRunner().invoke(command, ["install", str(git.bare), "--json"], standalone_mode=False)
    assert done.exception is None
    found = json.loads(done.stdout)
    assert found["name"] == "named"
    assert found["inbox"] == str(project / ".maestro" / "inbox")
    assert Path(found["hook"]).is_file()
