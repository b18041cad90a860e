"""Real repositories, made by git with nothing of the machine's own configuration."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from maestro_dagster.events.inbox import Inbox


def _load(name: str) -> None:
    """Importlib mode has no packages, so what tests share is loaded by its path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


for _name in ("forge_server", "forge_kinds", "git_server"):
    _load(_name)


@dataclass
class Git:
    """A bare repository with a clone beside it."""

    bare: Path
    clone: Path

    def run(self, *arguments: str, at: Path | None = None) -> str:
        return run_git(at or self.clone, *arguments)

    def commit(self, name: str = "file", text: str = "", message: str = "change") -> str:
        path = self.clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or os.urandom(8).hex())
        self.run("add", "--all")
        self.run("commit", "--quiet", "--message", message)
        return self.run("rev-parse", "HEAD")

    def push(self, *refs: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(self.clone), "push", "origin", *(refs or ("HEAD:refs/heads/main",))],
            capture_output=True,
            text=True,
            check=True,
        )


def run_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a name to commit under."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Ada\n\temail = ada@example.com\n[init]\n\tdefaultBranch = main\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return home


@pytest.fixture
def make_git(tmp_path: Path) -> Callable[..., Git]:
    def make(name: str = "shop.git") -> Git:
        bare, clone = tmp_path / name, tmp_path / f"clone of {name}"
        subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
        subprocess.run(["git", "clone", "--quiet", str(bare), str(clone)], check=True, capture_output=True)
        return Git(bare, clone)

    return make


@pytest.fixture
def git(make_git: Callable[..., Git]) -> Git:
    return make_git()


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    found = Inbox(tmp_path / "home" / "inbox", tmp_path / "home" / "inbox.sqlite")
    yield found
    found.close()
