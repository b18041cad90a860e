from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.manifest.graph import dependents, descendants
from maestro_dagster.manifest.model import Flow
from maestro_dagster.translate.segment import cut_segments

KIND = "pkg:text/template@1.0.0"
BRANCH = "pkg:control/branch@1.0.0"


def make_flow(tasks: list[dict[str, Any]]) -> Flow:
    return Flow.model_validate({"name": "sample", "version": "1.0.0", "tasks": tasks})


def chain(length: int, **changes: dict[str, Any]) -> Flow:
    tasks = [
        {"id": f"s{n}", "uses": KIND, "needs": [f"s{n - 1}"] if n else [], **changes.get(f"s{n}", {})}
        for n in range(length)
    ]
    return make_flow(tasks)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    tasks: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 40))):
        before = [task["id"] for task in tasks]
        needs = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        kind = draw(st.sampled_from([KIND, KIND, KIND, BRANCH]))
        task: dict[str, Any] = {"id": f"s{number}", "uses": kind, "needs": needs}
        if draw(st.integers(0, 9)) == 0:
            task["if"] = "run.id != ''"
        if len(needs) > 1 and draw(st.booleans()):
            task["join"] = "any"
        if draw(st.integers(0, 9)) == 0:
            task["resources"] = {"pod": True}
        tasks.append(task)
    return make_flow(draw(st.permutations(tasks)))


@given(flows(), st.integers(1, 12))
@settings(max_examples=60)
def test_segments_are_one_topological_order_and_respect_every_rule(flow: Flow, limit: int) -> None:
    segments = cut_segments(flow, limit)
    order = [step for segment in segments for step in segment.steps]
    place = {step: number for number, step in enumerate(order)}
    home = {step: segment.index for segment in segments for step in segment.steps}
    assert sorted(order) == sorted(task.id for task in flow.tasks)
    assert [segment.index for segment in segments] == list(range(len(segments)))
    tasks = {task.id: task for task in flow.tasks}
    for task in flow.tasks:
        assert all(place[need] < place[task.id] for need in task.needs)
        if task.uses == BRANCH:
            assert all(home[arm] == home[task.id] for arm in dependents(flow)[task.id])
    for start in flow.tasks:
        if start.uses != BRANCH and start.if_ is None:
            continue
        for join in _first_joins(flow, start.id):
            assert home[join] == home[start.id]
    for segment in segments:
        if segment.pod:
            assert len(segment.steps) == 1
        if len(segment.steps) > limit:
            # Only a region that must stay whole is longer: it begins with a branch or a condition.
            assert any(tasks[step].uses == BRANCH or tasks[step].if_ for step in segment.steps)


def _first_joins(flow: Flow, start: str) -> set[str]:
    found: set[str] = set()
    todo = list(dependents(flow)[start])
    tasks = {task.id: task for task in flow.tasks}
    while todo:
        step = todo.pop()
        if tasks[step].join == "any":
            found.add(step)
        else:
            todo.extend(dependents(flow)[step])
    return found


def test_a_long_chain_is_cut_at_the_limit() -> None:
    assert [len(segment.steps) for segment in cut_segments(chain(250))] == [100, 100, 50]


def test_a_step_with_its_own_pod_stands_alone() -> None:
    flow = chain(5, s2={"resources": {"pod": True}})
    assert [(segment.steps, segment.pod) for segment in cut_segments(flow)] == [
        (("s0", "s1"), False),
        (("s2",), True),
        (("s3", "s4"), False),
    ]


def test_chains_are_kept_together() -> None:
    tasks = [
        {"id": f"{letter}{n}", "uses": KIND, "needs": [f"{letter}{n - 1}"] if n else []}
        for n in range(3)
        for letter in "ab"
    ]
    assert [segment.steps for segment in cut_segments(make_flow(tasks), 3)] == [
        ("a0", "a1", "a2"),
        ("b0", "b1", "b2"),
    ]


def test_a_branch_is_never_cut_from_what_it_decides() -> None:
    flow = make_flow(
        [
            {"id": "start", "uses": KIND},
            {"id": "choose", "uses": BRANCH, "needs": ["start"]},
            {"id": "left", "uses": KIND, "needs": ["choose"]},
            {"id": "right", "uses": KIND, "needs": ["choose"]},
            {"id": "join", "uses": KIND, "needs": ["left", "right"], "join": "any"},
            {"id": "end", "uses": KIND, "needs": ["join"]},
        ]
    )
    segments = [set(segment.steps) for segment in cut_segments(flow, 2)]
    assert {"choose", "left", "right", "join"} in segments
    assert descendants(flow, "choose") == {"left", "right", "join", "end"}
