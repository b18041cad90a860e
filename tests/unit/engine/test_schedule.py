"""Scheduling, held against a slow reading of its rules over generated graphs."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.engine.schedule import Graph, Standing, advance, build_graph, judge
from maestro_dagster.manifest.model import Flow

EXAMPLES = 5000 if os.environ.get("MAESTRO_SOAK") == "1" else 150


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 9))
    names = [f"s{number}" for number in range(count)]
    needs = {
        name: tuple(draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=3))) if index else ()
        for index, name in enumerate(names)
    }
    listed: dict[str, frozenset[str]] = {}
    for name in names:
        after = [other for other in names if name in needs[other]]
        if after and draw(st.booleans()):
            listed[name] = frozenset(draw(st.lists(st.sampled_from(after), unique=True)))
    return Graph(
        needs=needs,
        dependents={name: tuple(other for other in names if name in needs[other]) for name in names},
        join={name: draw(st.sampled_from(["all", "any"])) for name in names},
        listed=listed,
    )


def expected_end(graph: Graph, ends: dict[str, Standing]) -> dict[str, str]:
    """The end of every step, if each one that runs ends as `ends` says: the rules, read slowly."""
    found: dict[str, str] = {}
    for step in graph.needs:  # needs come first
        arrived = []
        for need in graph.needs[step]:
            here = found[need] in {"done", "reused"}
            if need in graph.listed and step in graph.listed[need]:
                here = here and step in (ends[need].chosen or ())
            arrived.append(here)
        runs = (any(arrived) if graph.join[step] == "any" else all(arrived)) if arrived else True
        found[step] = ends[step].status if runs else "skipped"
    return found


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), graph=graphs())
def test_every_order_of_events_gives_the_same_end(data: st.DataObject, graph: Graph) -> None:
    ends = {
        step: Standing(
            data.draw(st.sampled_from(["done", "failed", "reused"])),
            frozenset(data.draw(st.lists(st.sampled_from(sorted(graph.listed[step])), unique=True)))
            if graph.listed.get(step)
            else None,
        )
        for step in graph.needs
    }
    standing: dict[str, Standing] = {}
    everything = frozenset(graph.needs)
    running, _ = advance(graph, standing, graph.needs, everything)
    started = list(running)
    while running:
        step = running.pop(data.draw(st.integers(0, len(running) - 1)))
        for need in graph.needs[step]:
            assert need in standing
        standing[step] = ends[step]
        ready, _ = advance(graph, standing, graph.dependents[step], everything)
        running += ready
        started += ready
    assert len(started) == len(set(started)), "a step started twice"
    assert {step: state.status for step, state in standing.items()} == expected_end(graph, ends)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), graph=graphs())
def test_steps_outside_the_segment_are_never_touched(data: st.DataObject, graph: Graph) -> None:
    within = frozenset(data.draw(st.lists(st.sampled_from(sorted(graph.needs)), unique=True)))
    standing: dict[str, Standing] = {}
    ready, skipped = advance(graph, standing, graph.needs, within)
    assert set(ready) | {skip.step for skip in skipped} <= within
    assert standing.keys() <= within


def test_a_long_chain_of_skips_is_no_recursion() -> None:
    count = 10_000
    tasks: list[dict[str, Any]] = [
        {"id": f"s{number}", "uses": "pkg:a/b@1.0.0", "needs": [f"s{number - 1}"] if number else []}
        for number in range(count)
    ]
    graph = build_graph(Flow.model_validate({"name": "long", "version": "1.0.0", "tasks": tasks}))
    standing = {"s0": Standing("failed")}
    ready, skipped = advance(graph, standing, ["s1"], frozenset(graph.needs))
    assert ready == []
    assert len(skipped) == count - 1
    assert skipped[0].reason == "it needs s0, which failed"
    assert judge(graph, "s5", {"s4": Standing("cancelled")}) != "ready"
