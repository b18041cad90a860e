"""Bare copies of remote repositories, so that what an event says of them can be read like a local one.

    <folder>/<digest of the URL>.git    a mirror: branches, tags, and the heads that events named
    <folder>/<digest of the URL>.lock   held (POSIX) by whoever fetches into it

A mirror is a cache: one that is damaged or gone is made again. A credential goes to git in its environment,
as a header for the one server, over https (or to this machine) only; it is in no argument and in no text.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from maestro_dagster.errors import EventError
from maestro_dagster.events.git import fetch_into, run_git
from maestro_dagster.events.interface import SHA, RepositoryEvent

FETCH_SECONDS = 600.0
_AT_ONCE = 2  # fetches
_LOCK_SECONDS = 60.0
_SHA256_LENGTH = 64
_DAMAGED = re.compile(
    r"not a git repository|corrupt|bad object|is empty|no Git repository|all necessary objects", re.IGNORECASE
)
_DENIED = re.compile(
    r"Authentication failed|could not read (Username|Password)|Permission denied|error: 40[13]", re.IGNORECASE
)

# The value of an `Authorization` header for a URL; None: no credential.
Credential = Callable[[str], str | None]


class Mirrors:
    """The mirrors of a folder.

    Args:
        folder: made if missing.
        credential: asked at each fetch.
        wait: fetch while the caller waits; else in threads, and `find` gives None meanwhile.

    """

    def __init__(self, folder: Path, credential: Credential = lambda _: None, *, wait: bool = False) -> None:
        self.folder = folder
        self._credential = credential
        self._wait = wait
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._running: set[str] = set()  # URLs
        self._tried: dict[tuple[str, str, str], EventError | None] = {}
        self._news = False

    def find(self, event: RepositoryEvent) -> Path | None:
        """The mirror with the event's commit, if the remote repository has it (any more).

        None while it is being fetched: `has_news` says when to ask again. Raises EventError
        (`mirror-failed`, `mirror-denied`, `mirror-busy`, `git-timeout`); the next call tries again.
        """
        url = strip_credentials(event.repository)
        path = find_mirror(self.folder, url)
        key = (url, event.ref, event.after)
        with self._lock:
            tried = key in self._tried
            error = self._tried.pop(key, None)
        if error is not None:
            raise error
        if tried or _has(path, event.after):
            return path
        with self._lock:
            if url in self._running:
                return None
            self._running.add(url)
        if self._wait:
            self._fetch(event, url, path)
            return self.find(event)
        name = f"fetch {path.stem[:8]}"
        threading.Thread(target=self._fetch, args=(event, url, path), name=name, daemon=True).start()
        return None

    def has_news(self) -> bool:
        """Whether a fetch ended since this was asked last."""
        news, self._news = self._news, False
        return news

    def _fetch(self, event: RepositoryEvent, url: str, path: Path) -> None:
        error: EventError | None = None
        try:
            with self._slots:
                update_mirror(path, event, url, find_header(event.repository, self._credential))
        except EventError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - a thread has nobody above it that would hear
            error = _failed(url, f"{type(found).__name__}: {found}")
        with self._lock:
            self._running.discard(url)
            self._tried[url, event.ref, event.after] = error
        self._news = True
        if error is None:
            _tidy(path)


def find_mirror(folder: Path, url: str) -> Path:
    """Where the mirror of a URL is, or would be."""
    name = hashlib.sha256(strip_credentials(url).encode()).hexdigest()[:32]
    return folder / f"{name}.git"


def strip_credentials(url: str) -> str:
    """A URL of http or https without user and password; another as it is."""
    parts = urlsplit(url) if url.startswith(("http://", "https://")) else None
    if parts is None or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def make_credential(forge: str, token: str) -> str:
    """The `Authorization` with which a kind of forge takes its tokens for git over http."""
    import base64

    if forge == "bitbucket-server":
        return f"Bearer {token}"
    user = {"bitbucket": "x-token-auth", "gitlab": "oauth2"}.get(forge, "x-access-token")
    return f"Basic {base64.b64encode(f'{user}:{token}'.encode()).decode()}"


def own_credential(url: str) -> str | None:
    """The `Authorization` of user and password in a URL."""
    import base64
    from urllib.parse import unquote

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def find_header(repository: str, credential: Credential = lambda _: None) -> str | None:
    """The `Authorization` for a URL: its own, or what `credential` knows; None where others would hear it."""
    url = strip_credentials(repository)
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(parts.hostname)):
        return own_credential(repository) or credential(url)
    return None


def update_mirror(path: Path, event: RepositoryEvent, url: str, header: str | None = None) -> None:
    """Fetches branches and tags, and the event's own ref and commit where those do not bring it.

    A commit that the remote does not have is no error here. Raises EventError as `Mirrors.find`.
    """
    with _locked(path):
        for again in (True, False):
            try:
                _prepare(path, event.after)
                _fetch_all(path, url, header)
            except EventError as error:
                if again and _DAMAGED.search(error.fact):
                    shutil.rmtree(path, ignore_errors=True)
                    continue
                raise _explain(error, url) from error
            break
        # The head of a pull request; then the commit itself, which a forced push may have taken off its ref.
        for source in (event.ref, event.after):
            if source.strip("0") and not _has(path, event.after):
                with contextlib.suppress(EventError):
                    refs = f"+{source}:{own_ref(source)}"
                    fetch_into(path, url, refs, header=header, seconds=FETCH_SECONDS)


def own_ref(source: str) -> str:
    """Where a mirror keeps what is neither branch nor tag: safe as a name, whatever the source is called."""
    return f"refs/maestro/{hashlib.sha256(source.encode()).hexdigest()[:32]}"


def _tidy(path: Path) -> None:
    """Packs what many small fetches left, when it is much; git says when."""
    with contextlib.suppress(EventError):
        quiet = ("-c", "gc.autoDetach=false", "gc", "--auto", "--quiet")
        run_git(str(path), *quiet, seconds=FETCH_SECONDS)


def _prepare(path: Path, sha: str) -> None:
    _remove_stale_locks(path)
    if (path / "HEAD").is_file():
        return
    from maestro_dagster.events.git import make_bare

    make_bare(path, "sha256" if len(sha) == _SHA256_LENGTH else "sha1")


def _fetch_all(path: Path, url: str, header: str | None) -> None:
    heads, tags = "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"
    fetch_into(path, url, heads, tags, header=header, seconds=FETCH_SECONDS)


def _remove_stale_locks(path: Path) -> None:
    """What a git left that died with its machine: older than any fetch lasts."""
    limit = time.time() - FETCH_SECONDS - _LOCK_SECONDS
    for place in (path, path / "refs", path / "objects" / "info"):
        for lock in place.rglob("*.lock") if place.name == "refs" else place.glob("*.lock"):
            with contextlib.suppress(OSError):
                if lock.stat().st_mtime < limit:
                    lock.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One fetch at a time. A POSIX lock, because a process that is forked meanwhile does not inherit it."""
    lock = path.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(str(lock), error.strerror or "it cannot be locked") from error
    try:
        stop = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > stop:
                    raise EventError(
                        "another process is fetching into the mirror",
                        place=str(path),
                        remedy="it is tried again",
                        code="mirror-busy",
                    ) from error
                time.sleep(0.1)
        yield
    finally:
        os.close(file)


def _has(path: Path, sha: str) -> bool:
    if not SHA.fullmatch(sha) or not sha.strip("0") or not (path / "HEAD").is_file():
        return False
    try:
        run_git(str(path), "cat-file", "-e", f"{sha}^{{commit}}")
    except EventError:
        return False
    return True


def is_this_machine(host: str | None) -> bool:
    """What is sent to it in the clear, nobody else hears."""
    return host in {"localhost", "127.0.0.1", "::1"}


def _explain(error: EventError, url: str) -> EventError:
    if error.error_code != "git-failed":
        return error
    if _DENIED.search(error.fact):
        return EventError(
            f"the server does not let us read the repository: {error.fact}",
            place=url,
            remedy="give it in resources/forges.yaml a `token` that may read, a `clone` at the host of `api`,"
            " or this user an ssh key, or a line in ~/.netrc",
            code="mirror-denied",
        )
    return _failed(url, error.fact)


def _failed(place: str, said: str) -> EventError:
    return EventError(
        f"the repository cannot be fetched: {said}",
        place=place,
        remedy="see that its server answers and the URL is right; it is tried again",
        code="mirror-failed",
    )
