"""Refs are polled as the net for repositories without a hook.

A poll sees only the newest commit of each ref: of three quick pushes it makes one event. So it makes
none for repositories whose hook reaches the inbox, and on the first sight of a repository it records
the refs without an event: what was there before is no push.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from maestro_dagster.database.interface import Connection
from maestro_dagster.errors import EventError
from maestro_dagster.events.git import run_git, run_git_remote
from maestro_dagster.events.hook import is_hooked
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.mirror import find_header, strip_credentials

_FIRST_SIGHT = "."  # no ref is called so: the row says that the repository was seen
_SEE = (
    "INSERT INTO seen_ref (repository, ref, sha, moves) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (repository, ref) DO UPDATE SET sha = excluded.sha, moves = excluded.moves"
)


@dataclass(frozen=True, slots=True)
class Poll:
    """What one pass found. A repository that could not be read is a problem, not the end of the pass."""

    events: tuple[RepositoryEvent, ...]
    problems: tuple[EventError, ...]


def poll_repositories(
    inbox: Inbox, repositories: Iterable[str] | Mapping[str, str], *, now: float | None = None
) -> Poll:
    """Record a pending event in the inbox for each branch or tag that moved since the last pass.

    Args:
        inbox: keeps the last seen commit of each ref, in the same transaction as the events.
        repositories: folders, or URLs that `git ls-remote` reads; a mapping gives their names.
        now: seconds since the epoch.

    """
    events: list[RepositoryEvent] = []
    problems: list[EventError] = []
    named = repositories.items() if isinstance(repositories, Mapping) else [("", one) for one in repositories]
    for name, repository in named:
        try:
            if not is_remote(repository) and is_hooked(Path(repository), inbox.folder):
                continue
            refs = read_refs(repository)
            events += _record(inbox, repository, name, refs, time.time() if now is None else now)
        except EventError as error:
            problems.append(error)
    return Poll(tuple(events), tuple(problems))


def is_remote(repository: str) -> bool:
    return "://" in repository or (":" in repository.split("/", 1)[0] and not Path(repository).exists())


def read_refs(repository: str) -> dict[str, str]:
    """Branches and tags with the object each points to."""
    if is_remote(repository):
        # A password in the URL would be seen in the arguments, and in errors.
        url, header = strip_credentials(repository), find_header(repository)
        lines = run_git_remote(url, "ls-remote", "--heads", "--tags", "--refs", header=header)
    else:
        lines = run_git(
            repository, "for-each-ref", "--format=%(objectname)\t%(refname)", "refs/heads", "refs/tags"
        )
    pairs = (line.split("\t", 1) for line in lines.decode(errors="replace").splitlines() if "\t" in line)
    return {ref: sha for sha, ref in pairs if "\N{REPLACEMENT CHARACTER}" not in ref}


def _record(
    inbox: Inbox, repository: str, name: str, refs: dict[str, str], now: float
) -> list[RepositoryEvent]:
    place = repository if is_remote(repository) else str(Path(repository).resolve())

    def record(connection: Connection) -> list[RepositoryEvent]:
        rows = connection.execute("SELECT ref, sha, moves FROM seen_ref WHERE repository = ?", (place,))
        seen = {ref: (sha, moves) for ref, sha, moves in rows}
        first = _FIRST_SIGHT not in seen
        moved: list[RepositoryEvent] = []
        for ref in sorted({*refs, *seen} - {_FIRST_SIGHT}):
            before, moves = seen.get(ref, ("", 0))
            after = refs.get(ref, "0" * len(before))
            if after == before or (first and ref not in refs):
                continue
            moves += 1
            connection.execute(_SEE, (place, ref, after, moves))
            if not first and not _is_known(connection, place, ref, after):
                event = _event(place, ref, before or "0" * len(after), after, moves, now)
                moved.append(replace(event, name=name) if name else event)
        if first:
            connection.execute(_SEE, (place, _FIRST_SIGHT, "", 0))
        return list(inbox.insert(connection, moved))

    return inbox.database.run_write(record)


def _is_known(connection: Connection, place: str, ref: str, after: str) -> bool:
    """Whether a hook, since removed, already brought this move."""
    row = connection.execute(
        "SELECT after FROM event WHERE repository = ? AND ref = ? ORDER BY sequence DESC LIMIT 1",
        (place, ref),
    ).fetchone()
    return row is not None and row[0] == after


def _event(repository: str, ref: str, before: str, after: str, moves: int, now: float) -> RepositoryEvent:
    # `moves` counts the moves of the ref, so that going back and forth makes different events.
    told = "\0".join((repository, ref, before, after, str(moves)))
    return RepositoryEvent(
        event_id=f"poll-{hashlib.sha256(told.encode()).hexdigest()[:32]}",
        repository=repository,
        before=before,
        after=after,
        ref=ref,
        received_at=now,
        source="poll",
        name=Path(repository.rstrip("/")).name.removesuffix(".git"),
    )
