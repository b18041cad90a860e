"""What an event and its commit say of themselves, read from the repository without running anything of it.

The repository is read where it lies: `where` is its folder, or that of its mirror.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maestro_dagster.errors import EventError
from maestro_dagster.events.filter import is_foreign
from maestro_dagster.events.git import run_git
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.mirror import own_ref, strip_credentials

_MAX_MESSAGE = 4096
_FORMAT = "%H%x00%an <%ae>%x00%cI%x00%B"
_TOLD = ("action", "number", "id", "title", "base_ref", "head_ref", "url", "conclusion")


def read_event_facts(event: RepositoryEvent) -> dict[str, str]:
    """What is known without the repository: sha, ref, branch, repository, before, event_id, received_at,
    event (its kind), and what the forge said of action, number (of a pull request), id (of anything else),
    title, base_ref, head_ref, url, labels (with commas between) and conclusion. `fork` is `true` or
    `false`, and `true` for a pull request of which the forge does not say it.

    `sha` is the last commit of a ref that was deleted, and empty where the forge does not name one.
    """
    sha = event.before if event.kind == "delete" else event.after
    facts = {
        "sha": sha if sha.strip("0") else "",
        "ref": event.ref,
        "branch": event.branch,
        "repository": strip_credentials(event.repository),
        "before": event.before,
        "event_id": event.event_id,
        "event": event.kind,
        "received_at": f"{event.received_at:.3f}",
    }
    facts |= {name: _text(event.facts.get(name)) for name in _TOLD}
    if event.kind != "pr":
        facts["number"] = ""  # of an event that was taken in when `number` was what `id` is
    labels = event.facts.get("labels")
    facts["labels"] = ",".join(map(str, labels)) if isinstance(labels, list | tuple) else ""
    facts["fork"] = "true" if is_foreign(event) else "false"
    return {name: text for name, text in facts.items() if text}


def read_commit_facts(event: RepositoryEvent, where: str | Path) -> dict[str, str]:
    """What the commit says: sha, author, message, time.

    `sha` is the commit, also for an annotated tag. Raises EventError `commit-missing` when the
    repository does not have it (any more).
    """
    try:
        # An object name of the inbox is hexadecimal and cannot be an option.
        told = run_git(
            str(where),
            *("-c", "i18n.logOutputEncoding=UTF-8", "-c", "log.showSignature=false"),
            *("show", "-s", "--no-notes", "--no-color", f"--format={_FORMAT}"),
            f"{_find_commit(event, where)}^{{commit}}",
        )
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        name = event.after[:12] if event.after.strip("0") else event.ref
        raise EventError(
            f"the repository does not have the pushed commit {name}",
            place=f"{strip_credentials(event.repository)} {event.ref}",
            remedy="push it again; it may have been replaced and cleaned up",
            code="commit-missing",
        ) from error
    sha, author, when, message = (told.decode(errors="replace").split("\0", 3) + [""] * 4)[:4]
    return {"sha": sha, "author": author, "message": message.strip()[:_MAX_MESSAGE], "time": when}


def read_changed_paths(
    event: RepositoryEvent, where: str | Path, default_branch: str = "main"
) -> tuple[str, ...]:
    """The files that a push changed, both names of a renamed one; for a pull request, those that it
    would change.

    For a new ref, or when the commit before is gone (a forced push, cleaned up): what differs from
    where it left the default branch; without such a place, every file.
    """
    commit = _find_commit(event, where)
    base: str | None = None
    if event.kind == "pr":
        into = str(event.facts.get("base_ref") or default_branch)
        bases = ([] if event.created else [event.before]) + [f"refs/heads/{into}"]
        base = next((found for name in bases if (found := _merge_base(where, name, commit))), None)
    elif not event.created and _exists(where, event.before):
        base = event.before
    if base is None and event.ref != f"refs/heads/{default_branch}":
        base = _merge_base(where, f"refs/heads/{default_branch}", commit)
    if base is None:
        listed = run_git(str(where), "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
    else:
        listed = run_git(
            str(where),
            *("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv"),
            *(base, commit, "--"),
        )
    return tuple(name.decode(errors="replace") for name in listed.split(b"\0") if name)


def _find_commit(event: RepositoryEvent, where: str | Path) -> str:
    """The object's name; for a release or a result of which the forge names only the ref, what that is."""
    if event.after.strip("0"):
        return event.after
    if event.kind == "delete":
        return event.before
    if is_foreign(event) and event.ref.startswith("refs/heads/"):
        return event.after  # a branch of the fork: ours of that name is another one
    for ref in (event.ref, own_ref(event.ref)):
        try:
            found = run_git(str(where), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{}}")
        except EventError as error:
            if error.error_code != "git-failed":
                raise
        else:
            return found.decode().strip()
    return event.after


def _exists(where: str | Path, sha: str) -> bool:
    try:
        run_git(str(where), "cat-file", "-e", f"{sha}^{{commit}}")
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        return False
    return True


def _merge_base(where: str | Path, branch: str, commit: str) -> str | None:
    try:
        found = run_git(str(where), "merge-base", "--end-of-options", branch, commit)
    except EventError as error:
        if error.error_code != "git-failed":
            raise
        return None
    return found.decode().strip() or None


def _text(value: Any) -> str:
    return "" if value is None else str(value)
