"""The post-receive hook that turns a push into an event in a project's inbox.

The hook is a POSIX shell script (`post-receive.sh`), so that it needs no Python where the repository
lives. An existing hook is kept as `post-receive.chained` and called after ours with the same input;
so is our own hook of another project, so one repository can serve several.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from maestro_dagster.errors import EventError
from maestro_dagster.events.git import read_config, run_git
from maestro_dagster.events.hook_name import check_name, keep_name, name_of, refuse_same_name

_MARK = "# maestro-hook "
_MAX_HOOK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class InstalledHook:
    """Where the hook stands. `chained` is the hook that was there before, `changed` False on a repeat."""

    path: Path
    inbox: Path
    repository: Path
    name: str
    chained: Path | None
    changed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "hook": str(self.path),
            "inbox": str(self.inbox),
            "repository": str(self.repository),
            "name": self.name,
            "chained": str(self.chained) if self.chained else None,
            "changed": self.changed,
        }


def install_hook(
    repo: Path, inbox: Path, name: str | None = None, settings: Mapping[str, str] | None = None
) -> InstalledHook:
    """Install or refresh the hook of a bare or non-bare repository, or of a worktree's.

    Args:
        repo: the repository's folder.
        inbox: the project's inbox; made if missing.
        name: what runs call the repository; its folder's name without `.git` if None.
        settings: the repositories that the project watches anyway, name -> path or URL.

    """
    repo, inbox = repo.resolve(), inbox.resolve()
    git_dir, hooks = _find_folders(repo)
    chosen = name or name_of(repo)
    check_name(chosen)
    refuse_same_name(chosen, git_dir, inbox, settings or {}, lambda other: is_hooked(other, inbox))
    for part in ("new", "tmp", "bad"):
        _make_folder(inbox / part)
    keep_name(chosen, git_dir, inbox)
    _make_folder(hooks)
    path = hooks / "post-receive"
    shared = not hooks.is_relative_to(git_dir)
    values = {
        "INBOX": str(inbox),
        "REPOSITORY": json.dumps({"repository": str(repo), "name": chosen})[1:-1],
        "ONLY": str(git_dir) if shared else "",
    }
    before = _read_hook(path)
    chained = _find_chained(path, before, values)
    text = _render(values, chained)
    if before == text and os.access(path, os.X_OK):
        return InstalledHook(path, inbox, repo, chosen, chained, changed=False)
    if chained is not None and not _is_same_hook(before, values) and before is not None:
        path.rename(chained)
    _write_hook(path, text)
    return InstalledHook(path, inbox, repo, chosen, chained, changed=True)


def is_hooked(repo: Path, inbox: Path) -> bool:
    """Whether pushes to `repo` reach `inbox` by an executable hook of ours, directly or chained."""
    try:
        path: Path | None = _read_folders(repo.resolve())[1] / "post-receive"
    except EventError:
        return False
    for _ in range(10):
        if path is None or not os.access(path, os.X_OK):
            return False
        text = _read_hook(path)
        if text is None or _MARK not in text:
            return False
        if f"inbox={shlex.quote(str(inbox.resolve()))}\n" in text:
            return True
        path = _chained_of(text)
    return False


def _read_folders(repo: Path) -> tuple[Path, Path]:
    """The repository's own folder (shared by its worktrees) and its folder of hooks."""
    common = run_git(str(repo), "rev-parse", "--git-common-dir")
    git_dir = (repo / os.fsdecode(common.rstrip(b"\n"))).resolve()
    try:
        # Of any scope: a hooks folder in the user's configuration counts for a push as well.
        configured = read_config(str(repo), "core.hooksPath")
    except EventError:
        configured = b""
    # Hooks of a push run in the Git directory, and a relative path starts there.
    return git_dir, (git_dir / os.fsdecode(configured.rstrip(b"\n") or b"hooks")).resolve()


def _find_folders(repo: Path) -> tuple[Path, Path]:
    try:
        return _read_folders(repo)
    except EventError as error:
        if error.error_code != "repository-missing":
            raise
        raise EventError(
            error.fact,
            place=error.place,
            remedy="give the folder of a Git repository, bare or with a working tree;"
            " `git init --bare FOLDER` makes one",
            code=error.error_code,
        ) from error


def _render(values: dict[str, str], chained: Path | None) -> str:
    text = files("maestro_dagster.events").joinpath("post-receive.sh").read_text("utf-8")
    for key, value in {**values, "CHAINED": str(chained or "")}.items():
        text = text.replace(f"@{key}@", shlex.quote(value), 1)
    return text


def _read_hook(path: Path) -> str | None:
    """The text of a hook, None where there is none. Binary hooks are hooks too."""
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_HOOK).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EventError(
            f"the hook cannot be read: {error.strerror}",
            place=str(path),
            remedy="mend its permissions and run this again",
            code="hook-unreadable",
        ) from error


def _is_same_hook(text: str | None, values: dict[str, str]) -> bool:
    """Whether this is our hook for the same inbox (and, in a shared folder, the same repository)."""
    return (
        text is not None
        and _MARK in text
        and all(f"{key.lower()}={shlex.quote(values[key])}\n" in text for key in ("INBOX", "ONLY"))
    )


def _find_chained(path: Path, before: str | None, values: dict[str, str]) -> Path | None:
    if before is None:
        return None
    if _is_same_hook(before, values):
        return _chained_of(before)
    number = 1
    while (
        candidate := path.with_name("post-receive.chained" + (f".{number}" if number > 1 else ""))
    ).exists():
        number += 1
    return candidate


def _chained_of(text: str) -> Path | None:
    found = re.search(r"^chained=(.*)$", text, re.MULTILINE)
    words = shlex.split(found[1]) if found else []
    return Path(words[0]) if words and words[0] else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EventError(
            f"the folder cannot be made: {error.strerror}",
            place=str(folder),
            remedy="make it, or mend the permissions of the folder above",
            code="hook-failed",
        ) from error


def _write_hook(path: Path, text: str) -> None:
    """Replace the hook in one step: a push in this moment runs the old one or the new one."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".post-receive-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode(errors="surrogateescape"))
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o755)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise EventError(
            f"the hook cannot be written: {error.strerror}",
            place=str(path),
            remedy="mend the permissions of the hooks folder and run this again",
            code="hook-failed",
        ) from error
