"""Git as a child process on repositories that strangers push to: read only, no configuration but the
repository's own, nothing that a repository could make run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from maestro_dagster.errors import EventError

_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_MAX_OUTPUT = 64 * 1024 * 1024


def run_git(repository: str, *arguments: str, seconds: float = 30.0) -> bytes:
    """Standard output of `git ARGUMENTS` in a local repository.

    Raises EventError `repository-missing` when the folder is gone or no repository, `git-missing`
    when there is no git, `git-failed` for everything else.
    """
    folder = Path(repository)
    if not folder.is_dir():
        raise EventError(
            "the repository is not there",
            place=repository,
            remedy="restore it, or take it out of `repositories` in [tool.maestro]",
            code="repository-missing",
        )
    # The operator named this folder, so its owner does not matter; what its configuration could make
    # Git run is switched off below.
    safe = ["-c", "safe.directory=*"]
    environment = _environment(folder.resolve().parent, "none")
    return run(
        ["-C", str(folder), *_SAFE, *safe, *arguments], repository, seconds=seconds, environment=environment
    )


def read_config(repository: str, name: str) -> bytes:
    """One path of the configuration that applies to a repository, the user's own included."""
    arguments = ["-C", repository, "config", "--type=path", "--get", name]
    return run(arguments, repository, seconds=30.0, environment=dict(os.environ))


def run_git_remote(url: str, *arguments: str, seconds: float = 30.0) -> bytes:
    """As `run_git`, for a command that speaks to a remote repository (`ls-remote`)."""
    environment = _environment(None, "file:git:http:https:ssh")
    return run([*arguments, "--", url], url, seconds=seconds, environment=environment)


def run(arguments: list[str], place: str, *, seconds: float, environment: dict[str, str]) -> bytes:
    try:
        done = subprocess.run(
            ["git", "--no-pager", "--no-optional-locks", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise EventError("there is no git", remedy="install git", code="git-missing") from error
    except subprocess.TimeoutExpired as error:
        raise EventError(
            f"git did not answer within {seconds:g} s",
            place=place,
            remedy="see whether the repository's disk or server answers",
            code="git-timeout",
        ) from error
    if done.returncode or len(done.stdout) > _MAX_OUTPUT:
        raise _failure(place, done.stderr.decode(errors="replace").strip())
    return done.stdout


def _failure(place: str, said: str) -> EventError:
    if "not a git repository" in said:
        return EventError(
            "the folder is no Git repository",
            place=place,
            remedy="give the folder of a repository, bare or with a working tree",
            code="repository-missing",
        )
    lines = said.splitlines() or ["git failed"]
    return EventError(lines[-1][:500], place=place, remedy="see `git fsck` there", code="git-failed")


def _environment(ceiling: Path | None, protocols: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "SSH_AUTH_SOCK") if name in os.environ}
    return {
        **kept,
        "LC_ALL": "C",
        "HOME": os.devnull if protocols == "none" else os.environ.get("HOME", os.devnull),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(ceiling) if ceiling else "",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_ATTR_NOSYSTEM": "1",
    }
