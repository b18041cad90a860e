"""Which steps may start. Pure: the graph and how each step stands go in, decisions come out.

A step is looked at when all its needs have ended. A need arrives when it is done (or reused) and, for a
branch that names the step among its cases, chose it. `join: all` wants every need to arrive, `join: any`
one of them; else the step is skipped, and so what depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maestro_dagster.manifest.graph import dependents
from maestro_dagster.manifest.model import Flow

ARRIVED = frozenset({"done", "reused"})
ENDED = frozenset({"done", "failed", "skipped", "cancelled", "reused"})
BRANCH = "pkg:control/branch@"


@dataclass(frozen=True, slots=True)
class Graph:
    """`listed` holds, for each branch, the steps that its cases and its default name."""

    needs: Mapping[str, tuple[str, ...]]
    dependents: Mapping[str, tuple[str, ...]]
    join: Mapping[str, Literal["all", "any"]]
    listed: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a step stands. `chosen` is set for a branch that is done."""

    status: str = "waiting"
    chosen: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    step: str
    reason: str


WAITING = Standing()


def build_graph(flow: Flow) -> Graph:
    return Graph(
        needs={task.id: tuple(dict.fromkeys(task.needs)) for task in flow.tasks},
        dependents=dependents(flow),
        join={task.id: task.join for task in flow.tasks},
        listed={
            task.id: frozenset(_listed(task.with_)) for task in flow.tasks if task.uses.startswith(BRANCH)
        },
    )


def judge(graph: Graph, step: str, standing: Mapping[str, Standing]) -> Literal["wait", "ready"] | Skip:
    """What is to be done with a step that has not begun."""
    needs = graph.needs[step]
    why = ""
    arrived = 0
    for need in needs:
        state = standing.get(need, WAITING)
        if state.status not in ENDED:
            return "wait"
        missed = _missed(graph, step, need, state)
        if missed:
            why = why or missed
        else:
            arrived += 1
    if arrived == len(needs) or (arrived and graph.join[step] == "any"):
        return "ready"
    return Skip(step, why)


def advance(
    graph: Graph, standing: dict[str, Standing], changed: Iterable[str], within: Container[str]
) -> tuple[list[str], list[Skip]]:
    """Judges the steps `changed` and, where one is skipped, what depends on it; only steps `within`.

    Gives those that may start and those that are skipped; skips are put into `standing`.
    """
    ready: list[str] = []
    skipped: list[Skip] = []
    found: set[str] = set()
    queue = deque(changed)
    while queue:
        step = queue.popleft()
        if step in found or step not in within or standing.get(step, WAITING).status != "waiting":
            continue
        verdict = judge(graph, step, standing)
        if verdict == "wait":
            continue  # judged again when its last need ends
        found.add(step)
        if isinstance(verdict, Skip):
            standing[step] = Standing("skipped")
            skipped.append(verdict)
            queue.extend(graph.dependents[step])
        else:
            ready.append(step)
    return ready, skipped


def _missed(graph: Graph, step: str, need: str, state: Standing) -> str:
    if state.status not in ARRIVED:
        return f"it needs {need}, which {'failed' if state.status == 'failed' else 'was ' + state.status}"
    listed = graph.listed.get(need)
    if listed is not None and step in listed and step not in (state.chosen or frozenset()):
        return f"the branch {need} did not choose it"
    return ""


def _listed(config: Mapping[str, Any]) -> Iterable[str]:
    cases = config.get("cases")
    for case in cases if isinstance(cases, list | tuple) else ():
        steps = case.get("steps") if isinstance(case, Mapping) else None
        yield from (step for step in steps or () if isinstance(step, str))
    default = config.get("default")
    if isinstance(default, list | tuple):
        yield from (step for step in default if isinstance(step, str))
