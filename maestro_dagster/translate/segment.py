"""A flow is cut into segments; each becomes one op of Dagster.

The cost of an op grows faster than the number of its outputs, and a failed op is the unit that Dagster
shows, so a segment has at most 100 steps. Between a branch and its arms, and between a step that can
be skipped and the join behind it, there is never a cut: Dagster would skip what lies behind an
output that was not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maestro_dagster.manifest.graph import dependents, topological_order
from maestro_dagster.manifest.model import Flow, Task

SEGMENT_LIMIT = 100
_BRANCH = "pkg:control/branch@"


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that run in one op, in topological order. `pod` asks for a machine of its own."""

    index: int
    steps: tuple[str, ...]
    pod: bool = False


def cut_segments(flow: Flow, limit: int = SEGMENT_LIMIT) -> tuple[Segment, ...]:
    """The flow's segments; joined together they are one topological order of its steps.

    A region that must stay whole may exceed the limit, and keeps a pod step inside; both are rare.
    """
    tasks = {task.id: task for task in flow.tasks}
    order = _depth_first_order(flow)
    whole = _whole_regions(tasks, order, dependents(flow))
    segments: list[list[str]] = []
    pods: list[bool] = []
    for block in whole:
        pod = len(block) == 1 and _wants_pod(tasks[block[0]])
        fits = segments and not pods[-1] and not pod and len(segments[-1]) + len(block) <= limit
        if fits:
            segments[-1].extend(block)
        else:
            segments.append(list(block))
            pods.append(pod)
    return tuple(
        Segment(index, tuple(steps), pod)
        for index, (steps, pod) in enumerate(zip(segments, pods, strict=True))
    )


def _wants_pod(task: Task) -> bool:
    return task.resources is not None and task.resources.pod


def _depth_first_order(flow: Flow) -> tuple[str, ...]:
    """A topological order that follows each chain as far as it goes: fewer edges cross a cut."""
    followers = dependents(flow)
    waits = {task.id: len(set(task.needs)) for task in flow.tasks}
    stack = [task.id for task in reversed(flow.tasks) if waits[task.id] == 0]
    order: list[str] = []
    while stack:
        step = stack.pop()
        order.append(step)
        for follower in reversed(followers[step]):
            waits[follower] -= 1
            if waits[follower] == 0:
                stack.append(follower)
    return tuple(order) if len(order) == len(waits) else topological_order(flow)  # which raises on a cycle


def _whole_regions(
    tasks: Mapping[str, Task], order: Sequence[str], followers: Mapping[str, Sequence[str]]
) -> Iterable[Sequence[str]]:
    """The order cut wherever no region forbids it."""
    place = {step: number for number, step in enumerate(order)}
    end = list(range(len(order)))  # the last place that must share a segment with each place
    joins = _nearest_join(tasks, order, followers, place)
    for number, step in enumerate(order):
        task = tasks[step]
        if task.uses.startswith(_BRANCH):
            arms = [place[follower] for follower in followers[step]]
            end[number] = max([number, *arms])
        if task.uses.startswith(_BRANCH) or task.if_ is not None:
            end[number] = max(end[number], joins[step])
    start = 0
    reach = 0
    for number in range(len(order)):
        reach = max(reach, end[number])
        if number == reach:
            yield order[start : number + 1]
            start = reach = number + 1


def _nearest_join(
    tasks: Mapping[str, Task],
    order: Sequence[str],
    followers: Mapping[str, Sequence[str]],
    place: Mapping[str, int],
) -> dict[str, int]:
    """Step -> the place of the last of the joins that first stop a skip which starts at the step, or -1."""
    found: dict[str, int] = {}
    for step in reversed(order):
        found[step] = max(
            (place[each] if tasks[each].join == "any" else found[each] for each in followers[step]),
            default=-1,
        )
    return found
