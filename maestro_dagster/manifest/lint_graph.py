"""What the schema cannot say of a graph: circles, repeated ids, needs of nothing, steps never reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from maestro_dagster.manifest.dialect import Path, Remark
from maestro_dagster.manifest.graph import find_cycle, topological_order
from maestro_dagster.manifest.model import Flow, Task
from maestro_dagster.manifest.suggest import did_you_mean

BRANCH = "pkg:control/branch@1.0.0"

# branch -> which of its outcomes (number of a case, -1 for default) let a step run
Outcomes = dict[str, frozenset[int]]


def check_ids_and_needs(flow: Flow) -> Iterator[Remark]:
    """Repeated ids, needs of the step itself, needs of no step, circles."""
    places: dict[str, int] = {}
    sound = True
    for number, task in enumerate(flow.tasks):
        if task.id in places:
            sound = False
            yield Remark(
                "duplicate-id",
                f"the id `{task.id}` belongs to an earlier step",
                "Give each step an id of its own.",
                ("tasks", number, "id"),
            )
        places.setdefault(task.id, number)
    for number, task in enumerate(flow.tasks):
        yield from _check_needs(task, number, places)
    needs = {task.id: [need for need in task.needs if need != task.id] for task in flow.tasks}
    cycle = find_cycle(needs) if sound else None
    if cycle is not None:
        number = places[cycle[0]]
        at = flow.tasks[number].needs.index(cycle[1])
        yield Remark(
            "cycle",
            f"the steps need each other in a circle: {_path(cycle)}",
            "Remove one of these needs.",
            ("tasks", number, "needs", at),
        )


def _path(cycle: tuple[str, ...]) -> str:
    shown = 20
    if len(cycle) <= shown:
        return " -> ".join(cycle)
    return f"{' -> '.join(cycle[: shown - 2])} -> ({len(cycle) - shown} more) -> {cycle[-2]} -> {cycle[-1]}"


def _check_needs(task: Task, number: int, places: Mapping[str, int]) -> Iterator[Remark]:
    seen: set[str] = set()
    for at, need in enumerate(task.needs):
        path: Path = ("tasks", number, "needs", at)
        if need == task.id:
            yield Remark("self-need", f"the step `{need}` needs itself", "Remove this need.", path)
        elif need not in places:
            yield Remark(
                "unknown-need",
                f"the step `{task.id}` needs `{need}`, which is no step",
                did_you_mean(need, places, otherwise="Name a step of this flow."),
                path,
            )
        elif need in seen:
            yield Remark(
                "duplicate-need", f"the step `{task.id}` needs `{need}` twice", "Remove one.", path, "warning"
            )
        seen.add(need)


def check_branches(flow: Flow) -> Iterator[Remark]:
    """Steps that no outcome of the branches before them can reach. The graph has to be sound."""
    numbers = {task.id: number for number, task in enumerate(flow.tasks)}
    branches = {task.id: task for task in flow.tasks if task.uses == BRANCH}
    for task in branches.values():
        yield from _check_targets(flow, task, numbers)
    for number, task in enumerate(flow.tasks):
        if task.if_ is not None and task.if_.strip().lower() in ("false", "${{ false }}"):
            message = f"the step `{task.id}` never runs: its `if` is always false"
            place: Path = ("tasks", number, "if")
            yield Remark("unreachable", message, "Remove the step or its `if`.", place, "warning")
    if branches:
        yield from _check_reach(flow, branches, numbers)


def _check_targets(flow: Flow, branch: Task, numbers: Mapping[str, int]) -> Iterator[Remark]:
    for path, step in _targets(branch):
        place = ("tasks", numbers[branch.id], "with", *path)
        if step not in numbers:
            remedy = did_you_mean(step, numbers, otherwise="Name a step of this flow.")
            yield Remark(
                "unknown-step", f"`{branch.id}` chooses `{step[:64]}`, which is no step", remedy, place
            )
        elif branch.id not in flow.tasks[numbers[step]].needs:
            message = f"`{branch.id}` chooses `{step}`, which does not need it"
            yield Remark("branch-target", message, f"Add `{branch.id}` to the needs of `{step}`.", place)


def _targets(branch: Task) -> Iterator[tuple[Path, str]]:
    """Every step that a branch names, with the place in its config. What is misshapen, the kind refuses."""
    cases = branch.with_.get("cases")
    for number, case in enumerate(cases if isinstance(cases, list) else ()):
        steps = case.get("steps") if isinstance(case, dict) else None
        for at, step in enumerate(steps if isinstance(steps, list) else ()):
            if isinstance(step, str):
                yield ("cases", number, "steps", at), step
    default = branch.with_.get("default")
    for at, step in enumerate(default if isinstance(default, list) else ()):
        if isinstance(step, str):
            yield ("default", at), step


def _check_reach(flow: Flow, branches: Mapping[str, Task], numbers: Mapping[str, int]) -> Iterator[Remark]:
    chosen = _outcomes_of_targets(branches)
    reach: dict[str, Outcomes] = {}
    for step in topological_order(flow):
        task = flow.tasks[numbers[step]]
        through = [_through(reach[need], chosen.get((need, step)), need) for need in task.needs]
        outcomes = _combine(task, through)
        blocked = next((branch for branch, left in outcomes.items() if not left), None)
        if blocked is not None:
            yield Remark(
                "unreachable",
                f"the step `{step}` is never reached: its needs lie behind different choices of `{blocked}`",
                "Let it need steps of one case only, or write `join: any`.",
                ("tasks", numbers[step], "needs"),
            )
            outcomes = {}  # say it once, not for every step behind it
        reach[step] = outcomes


def _outcomes_of_targets(branches: Mapping[str, Task]) -> dict[tuple[str, str], frozenset[int]]:
    chosen: dict[tuple[str, str], frozenset[int]] = {}
    for branch in branches.values():
        for path, step in _targets(branch):
            outcome = path[1] if path[0] == "cases" else -1
            chosen[branch.id, step] = chosen.get((branch.id, step), frozenset()) | {int(outcome)}
    return chosen


def _through(outcomes: Outcomes, chosen: frozenset[int] | None, branch: str) -> Outcomes:
    """What a need that is a branch lets through to one step."""
    return outcomes if chosen is None else {**outcomes, branch: outcomes.get(branch, chosen) & chosen}


def _combine(task: Task, needs: Sequence[Outcomes]) -> Outcomes:
    """Under which outcomes all needs run (`join: all`), or at least one (`join: any`)."""
    if not needs:
        return {}
    combined = dict(needs[0])
    for other in needs[1:]:
        if task.join == "any":
            combined = {key: combined[key] | other[key] for key in combined if key in other}
        else:
            for key, outcomes in other.items():
                combined[key] = combined.get(key, outcomes) & outcomes
    return combined


def ancestor_masks(flow: Flow) -> dict[str, int]:
    """For each step the set of its ancestors as a bit mask over the numbers of the steps."""
    numbers: dict[str, int] = {task.id: number for number, task in enumerate(flow.tasks)}
    masks: dict[str, int] = {}
    for step in topological_order(flow):
        mask = 0
        for need in flow.tasks[numbers[step]].needs:
            mask |= masks[need] | (1 << numbers[need])
        masks[step] = mask
    return masks
