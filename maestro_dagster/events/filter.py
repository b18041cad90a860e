"""Does a flow want to run for an event? The filters of its `on:`.

    on: push                                    every branch
    on: [{push: {branches: [main, "rel/*"]}}]   fnmatch on the branch's name; `*` crosses slashes
    on: [{push: {paths: ["src/**"]}}]           and at least one changed file fits
    on: tag                                     tags; `branches` are patterns of the tag's name
    on: pr                                      a pull request with something new in it; `branches` are
                                                those it wants to go into, `labels` those that it has
    on: [{pr: {actions: [merged]}}]             what was done to it
    on: release                                 published ones; `branches` are patterns of the tag's name
    on: delete                                  a branch or tag that is gone
    on: [{pipeline: {conclusions: [failure]}}]  what the forge's own CI came to; `branches` it ran for
    on: check                                   as `pipeline`, for one check or commit status

A pattern that starts with `!` takes back what earlier patterns gave. What comes from a fork was written
by a stranger: it starts nothing unless the trigger says `forks: true`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.manifest.model import Flow, Trigger

ChangedPaths = Sequence[str] | Callable[[], Sequence[str]]

# What counts where a trigger names no actions.
_NEWS: Mapping[str, frozenset[str]] = {
    "pr": frozenset({"opened", "updated", "reopened", "ready"}),
    "release": frozenset({"published"}),
    "pipeline": frozenset({"completed"}),
    "check": frozenset({"completed"}),
}
# The words of the webhooks (those of GitHub) for what `on:` says more plainly.
_ACTIONS: Mapping[str, str] = {
    "synchronize": "updated",
    "ready_for_review": "ready",
    "rerequested": "requested",
}
_CONCLUSIONS: Mapping[str, str] = {"startup_failure": "failure"}


def flow_wants(flow: Flow, event: RepositoryEvent, changed_paths: ChangedPaths) -> bool:
    """Whether one of the flow's triggers fits.

    Args:
        flow: its `on:` decides.
        event: what happened.
        changed_paths: the changed files, or a function that reads them; called only when a trigger
            that fits otherwise has path patterns, and then once.

    """
    read: list[Sequence[str]] = []

    def paths() -> Sequence[str]:
        if not read:
            read.append(changed_paths() if callable(changed_paths) else changed_paths)
        return read[0]

    return any(_fits(trigger, event, paths) for trigger in flow.on)


def _fits(trigger: Trigger, event: RepositoryEvent, paths: Callable[[], Sequence[str]]) -> bool:
    if trigger.event != _event_of(event) or (is_foreign(event) and not trigger.forks):
        return False
    if trigger.branches and not matches(target_branch(event), trigger.branches):
        return False
    if trigger.labels and not _has_label(event, trigger.labels):
        return False
    if trigger.conclusions and conclusion_of(event) not in trigger.conclusions:
        return False
    wanted = trigger.actions or _NEWS.get(event.kind)
    if wanted and not actions_of(event) & frozenset(wanted):
        return False
    return not trigger.paths or any(matches(path, trigger.paths) for path in paths())


def _event_of(event: RepositoryEvent) -> str | None:
    """The word of `on:`. A push of a ref that is neither branch nor tag (`refs/notes/...`) has none."""
    if event.kind == "push" and not event.ref.startswith("refs/heads/"):
        return None
    return event.kind


def is_foreign(event: RepositoryEvent) -> bool:
    """Whether it comes from a fork: a pull request also when the forge does not say that it is none."""
    fork = event.facts.get("fork")
    return fork is not False if event.kind == "pr" else bool(fork)


def target_branch(event: RepositoryEvent) -> str:
    """What `branches` is compared with: for a pull request the branch that it wants to go into."""
    if event.kind == "pr":
        base = event.facts.get("base_ref")
        return base.removeprefix("refs/heads/") if isinstance(base, str) else ""
    if event.kind in ("pipeline", "check") and not event.ref.startswith(("refs/heads/", "refs/tags/")):
        head = event.facts.get("head_ref")
        return head.removeprefix("refs/heads/") if isinstance(head, str) else ""
    return event.branch


def actions_of(event: RepositoryEvent) -> frozenset[str]:
    """What was done, in the words of `on:`. What was merged is not `closed`."""
    said = str(event.facts.get("action") or "")
    action = _ACTIONS.get(said, said)
    if action in ("closed", "merged") and (action == "merged" or event.facts.get("merged") is True):
        return frozenset({"merged"})
    return frozenset({action})


def conclusion_of(event: RepositoryEvent) -> str:
    """How it ended in the words of `on:`; empty while it runs."""
    said = str(event.facts.get("conclusion") or "")
    return _CONCLUSIONS.get(said, said)


def _has_label(event: RepositoryEvent, patterns: Sequence[str]) -> bool:
    """One label that fits is enough. Only `!` patterns: none may be one of those."""
    labels = event.facts.get("labels")
    names = [str(name) for name in labels] if isinstance(labels, list | tuple) else []
    if all(pattern.startswith("!") for pattern in patterns):
        return all(matches(name, patterns) for name in names)
    return any(matches(name, patterns) for name in names)


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
