"""Git as a child process on repositories that strangers push to: read only, no configuration but the
repository's own, nothing that a repository could make run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from maestro_dagster.errors import EventError

_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
# A server that goes silent, sends us elsewhere (with our credential) or has packs we did not ask for.
_REMOTE = (
    *("-c", "http.followRedirects=false", "-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60"),
    *("-c", "transfer.bundleURI=false", "-c", "gc.auto=0", "-c", "protocol.version=2"),
)
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


def make_bare(folder: Path, form: str) -> None:
    """An empty bare repository; `form` is the object format, sha1 or sha256."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["init", "--quiet", "--bare", "--template=", f"--object-format={form}", str(folder)]
    run(arguments, str(folder), seconds=30.0, environment=_environment(None, "none"))


def fetch_into(folder: Path, url: str, *refs: str, header: str | None, seconds: float) -> None:
    """Fetch refs from a URL into a bare repository, and forget there what the URL has no more.

    `header` is an `Authorization` for the URL's server; git gets it in its environment. Errors as `run_git`.
    """
    quiet = ("--quiet", "--no-tags", "--prune", "--no-write-fetch-head", "--no-recurse-submodules", "--force")
    arguments = ["-C", str(folder), *_SAFE, *_REMOTE, "-c", "safe.directory=*", "fetch", *quiet]
    run([*arguments, "--", url, *refs], url, seconds=seconds, environment=_remote_environment(url, header))


def run_git_remote(url: str, *arguments: str, header: str | None = None, seconds: float = 30.0) -> bytes:
    """As `run_git`, for a command that speaks to a remote repository (`ls-remote`); `header` as above."""
    environment = _remote_environment(url, header)
    return run([*_REMOTE, *arguments, "--", url], url, seconds=seconds, environment=environment)


def _remote_environment(url: str, header: str | None) -> dict[str, str]:
    environment = _environment(None, "file:git:http:https:ssh") | _outside()
    if header is not None:
        parts = urlsplit(url)
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: {header}",
        }
    return environment


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


def _outside() -> dict[str, str]:
    """What leads out of this machine: proxies and certificates. ssh asks nobody for anything."""
    proxies = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
    names = (*proxies, "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=15"}


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
