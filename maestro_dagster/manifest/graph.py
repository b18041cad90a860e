"""The graph of a flow's steps: order, cycles, ancestors. All of it linear in steps and needs."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest.model import Flow


def needs_of(flow: Flow) -> dict[str, tuple[str, ...]]:
    """Step id -> ids of the steps it needs, in declared order."""
    return {task.id: task.needs for task in flow.tasks}


def topological_order(flow: Flow) -> tuple[str, ...]:
    """All step ids, needs first; among steps that are ready at once the declared order decides.

    Raises ManifestError `cycle` when there is none.
    """
    needs = needs_of(flow)
    ids = tuple(needs)
    place = {step: number for number, step in enumerate(ids)}
    waits = {step: len(set(wanted)) for step, wanted in needs.items()}
    followers = dependents(flow)
    ready = [place[step] for step, count in waits.items() if count == 0]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        step = ids[heapq.heappop(ready)]
        order.append(step)
        for follower in followers[step]:
            waits[follower] -= 1
            if waits[follower] == 0:
                heapq.heappush(ready, place[follower])
    if len(order) != len(ids):
        cycle = find_cycle(needs) or ()
        raise ManifestError(
            f"the steps need each other in a circle: {' -> '.join(cycle)}",
            place=f"flow {flow.name}",
            remedy="Remove one of these needs.",
            code="cycle",
        )
    return tuple(order)


def dependents(flow: Flow) -> dict[str, tuple[str, ...]]:
    """Step id -> ids of the steps that need it directly, in declared order."""
    followers: dict[str, list[str]] = {task.id: [] for task in flow.tasks}
    for task in flow.tasks:
        for need in dict.fromkeys(task.needs):
            if need in followers:
                followers[need].append(task.id)
    return {step: tuple(each) for step, each in followers.items()}


def descendants(flow: Flow, step: str) -> frozenset[str]:
    """All steps that need this one, directly or through others, without itself."""
    return _reach(step, dependents(flow))


def ancestors(flow: Flow, step: str) -> frozenset[str]:
    """All steps that this one needs, directly or through others, without itself."""
    return _reach(step, needs_of(flow))


def _reach(start: str, edges: Mapping[str, Sequence[str]]) -> frozenset[str]:
    found: set[str] = set()
    todo = list(edges[start])
    while todo:
        step = todo.pop()
        if step not in found:
            found.add(step)
            todo.extend(edges.get(step, ()))
    return frozenset(found)


def find_cycle(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """One circle of needs as a path that ends where it began (`a`, `b`, `a`), or None.

    Needs that name no step are passed over. Iterative, because a chain may be 10,000 steps long.
    """
    done: set[str] = set()
    for start in needs:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start: 0}
        stack = [iter(needs[start])]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                left = path.pop()
                del on_path[left]
                done.add(left)
            elif step in on_path:
                return (*path[on_path[step] :], step)
            elif step in needs and step not in done:
                on_path[step] = len(path)
                path.append(step)
                stack.append(iter(needs[step]))
    return None
