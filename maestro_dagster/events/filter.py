"""Does a flow want to run for a push? The filters of its `on:`.

    on: push                                    every branch
    on: [{push: {branches: [main, "rel/*"]}}]   fnmatch on the branch's name; `*` crosses slashes
    on: [{push: {paths: ["src/**"]}}]           and at least one changed file fits
    on: tag                                     tags; `branches` are patterns of the tag's name

A pattern that starts with `!` takes back what earlier patterns gave. Deleted refs want nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.manifest.model import Flow, Trigger

ChangedPaths = Sequence[str] | Callable[[], Sequence[str]]


def flow_wants(flow: Flow, event: RepositoryEvent, changed_paths: ChangedPaths) -> bool:
    """Whether one of the flow's triggers fits.

    Args:
        flow: its `on:` decides.
        event: what was pushed.
        changed_paths: the changed files, or a function that reads them; called only when a trigger
            has path patterns, and then once.

    """
    if event.deleted:
        return False
    read: list[Sequence[str]] = []

    def paths() -> Sequence[str]:
        if not read:
            read.append(changed_paths() if callable(changed_paths) else changed_paths)
        return read[0]

    return any(_fits(trigger, event, paths) for trigger in flow.on)


def _fits(trigger: Trigger, event: RepositoryEvent, paths: Callable[[], Sequence[str]]) -> bool:
    if trigger.event != _kind(event):
        return False
    if trigger.branches and not matches(event.branch, trigger.branches):
        return False
    return not trigger.paths or any(matches(path, trigger.paths) for path in paths())


def _kind(event: RepositoryEvent) -> str | None:
    if event.is_tag:
        return "tag"
    return "push" if event.ref.startswith("refs/heads/") else None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the last pattern that fits the name gives it. Only `!` patterns: everything but those."""
    wanted = all(pattern.startswith("!") for pattern in patterns)
    for pattern in patterns:
        if _fits_pattern(name, pattern.removeprefix("!")):
            wanted = not pattern.startswith("!")
    return wanted


def _fits_pattern(name: str, pattern: str) -> bool:
    if fnmatchcase(name, pattern):
        return True
    # `**/x` also means x at the top.
    return pattern.startswith("**/") and fnmatchcase(name, pattern[3:])
