"""What a pushed commit says of itself, read from the repository without running anything of it."""

from __future__ import annotations

from maestro_dagster.errors import EventError
from maestro_dagster.events.git import run_git
from maestro_dagster.events.interface import RepositoryEvent

_MAX_MESSAGE = 4096
_FORMAT = "%H%x00%an <%ae>%x00%cI%x00%B"


def read_git_facts(event: RepositoryEvent) -> dict[str, str]:
    """The `git` of a RunRequest: sha, ref, branch, repository, before, event_id, author, message, time.

    `sha` is the commit, also for an annotated tag. Raises EventError `commit-missing` when the
    repository does not have it (any more).
    """
    try:
        # `--end-of-options` is for refs; an object name of the inbox is hexadecimal and cannot be one.
        told = run_git(
            event.repository,
            *("-c", "i18n.logOutputEncoding=UTF-8", "-c", "log.showSignature=false"),
            *("show", "-s", "--no-notes", "--no-color", f"--format={_FORMAT}", f"{event.after}^{{commit}}"),
        )
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        raise EventError(
            f"the repository does not have the pushed commit {event.after[:12]}",
            place=f"{event.repository} {event.ref}",
            remedy="push it again; it may have been replaced and cleaned up",
            code="commit-missing",
        ) from error
    sha, author, when, message = (told.decode(errors="replace").split("\0", 3) + [""] * 4)[:4]
    return {
        "sha": sha,
        "ref": event.ref,
        "branch": event.branch,
        "repository": event.repository,
        "before": event.before,
        "event_id": event.event_id,
        "author": author,
        "message": message.strip()[:_MAX_MESSAGE],
        "time": when,
    }


def read_changed_paths(event: RepositoryEvent, default_branch: str = "main") -> tuple[str, ...]:
    """The files that a push changed, both names of a renamed one.

    For a new ref, or when the commit before is gone (a forced push, cleaned up): what differs from
    where it left the default branch; without such a place, every file.
    """
    base = None if event.created else event.before
    if base is not None and not _exists(event.repository, base):
        base = None
    if base is None:
        base = _find_base(event, default_branch)
    if base is None:
        listed = run_git(event.repository, "ls-tree", "-r", "-z", "--name-only", "--full-tree", event.after)
    else:
        listed = run_git(
            event.repository,
            *("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv"),
            *(base, event.after, "--"),
        )
    return tuple(name.decode(errors="replace") for name in listed.split(b"\0") if name)


def _exists(repository: str, sha: str) -> bool:
    try:
        run_git(repository, "cat-file", "-e", f"{sha}^{{commit}}")
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        return False
    return True


def _find_base(event: RepositoryEvent, default_branch: str) -> str | None:
    if event.ref == f"refs/heads/{default_branch}":
        return None
    try:
        found = run_git(event.repository, "merge-base", f"refs/heads/{default_branch}", event.after)
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        return None
    return found.decode().strip() or None
